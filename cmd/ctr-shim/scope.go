// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"ctrd.dev/ctrd/lib/cgroup/scope"
)

// scopeWithin bounds what systemd takes to make or stop a scope. The timeout of libcontainer's driver is as long.
const scopeWithin = 30 * time.Second

// makeScope has systemd make a scope for a supervisor: NAME DESCRIPTION PID. It is a process by itself because
// D-Bus is for a moment and a supervisor for long.
func makeScope(name, description, process string) int {
	return ask(func(ctx context.Context) error {
		pid, err := strconv.Atoi(process)
		if err != nil {
			return err
		}
		return scope.Start(ctx, scope.Scope{Name: name, Description: description}, pid)
	})
}

// stopScope has systemd stop the scope of a container whose supervisor was killed: NAME.
func stopScope(name string) int {
	return ask(func(ctx context.Context) error { return scope.Stop(ctx, name) })
}

func ask(systemd func(context.Context) error) (status int) {
	ctx, cancel := context.WithTimeout(context.Background(), scopeWithin)
	defer cancel()
	if err := systemd(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ctr-shim:", err)
		return 1
	}
	return 0
}
