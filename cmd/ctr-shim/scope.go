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

// scopeWithin bounds what systemd takes to make a scope. The timeout of libcontainer's driver is as long.
const scopeWithin = 30 * time.Second

// makeScope has systemd make a scope for a supervisor: NAME DESCRIPTION PID. It is a process by itself because
// D-Bus is for a moment and a supervisor for long.
func makeScope(name, description, process string) int {
	pid, err := strconv.Atoi(process)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), scopeWithin)
		defer cancel()
		err = scope.Start(ctx, scope.Scope{Name: name, Description: description}, pid)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ctr-shim:", err)
		return 1
	}
	return 0
}
