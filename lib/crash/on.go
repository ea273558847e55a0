// SPDX-License-Identifier: Apache-2.0

//go:build crashpoints

package crash

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// trace, when CTRD_CRASH_TRACE names a file, lets the runner learn which points a command passes.
var trace = sync.OnceValue(func() *os.File {
	f, err := os.OpenFile(os.Getenv("CTRD_CRASH_TRACE"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil
	}
	return f
})

// Point kills the process with SIGKILL when CTRD_CRASH names this point, and appends the point's
// name to the file that CTRD_CRASH_TRACE names.
func Point(name string) {
	if f := trace(); f != nil {
		fmt.Fprintln(f, name)
	}
	for want := range strings.SplitSeq(os.Getenv("CTRD_CRASH"), ",") {
		if want == name {
			unix.Kill(unix.Getpid(), unix.SIGKILL)
			select {}
		}
	}
}
