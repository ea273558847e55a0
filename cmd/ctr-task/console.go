// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/stdio"
)

// consoleSize is the size that the terminal of a program begins with: that of ours on stdin, else on stdout. It
// is nil for a program without a terminal, and where we have none.
func consoleSize(tty bool) *specs.Box {
	if !tty {
		return nil
	}
	for _, f := range []*os.File{os.Stdin, os.Stdout} {
		if !stdio.IsTerminal(f) {
			continue
		}
		if w, h, err := stdio.Size(f); err == nil && w > 0 && h > 0 {
			return &specs.Box{Width: uint(w), Height: uint(h)}
		}
	}
	return nil
}
