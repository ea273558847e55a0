// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxSignal is the largest signal number of Linux, SIGRTMAX.
const maxSignal = 64

// ParseSignal reads a signal as kill(1) and docker do: TERM, SIGTERM, term or 15; RTMIN+3 and RTMAX-1
// as well.
func ParseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= maxSignal {
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	// The C library keeps 32 and 33 for itself, so RTMIN is 34 for a program that was told of it.
	for prefix, base := range map[string]int{"RTMIN": 34, "RTMAX": maxSignal} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		offset, err := strconv.Atoi(rest)
		if rest == "" {
			offset, err = 0, nil
		}
		if n := base + offset; err == nil && n >= 34 && n <= maxSignal {
			return unix.Signal(n), nil
		}
	}
	return 0, fmt.Errorf("%q is no signal: give a name such as TERM or a number from 1 to %d: %w", s, maxSignal, errdefs.ErrInvalidArgument)
}
