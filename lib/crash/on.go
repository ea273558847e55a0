// SPDX-License-Identifier: Apache-2.0

//go:build crashpoints

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// trace, when CTRD_CRASH_TRACE names a file or a directory, lets the runner learn which points a
// command passes.
var trace = sync.OnceValue(func() *os.File {
	path := os.Getenv("CTRD_CRASH_TRACE")
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		path = filepath.Join(path, fmt.Sprintf("%s.%d", filepath.Base(os.Args[0]), os.Getpid()))
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil
	}
	return f
})

var passes = struct {
	sync.Mutex
	of map[string]int
}{of: map[string]int{}}

// Point kills the process with SIGKILL when CTRD_CRASH names this point, stops it with SIGSTOP when
// CTRD_STOP does, and appends the point's name to the file that CTRD_CRASH_TRACE names.
func Point(name string) {
	passes.Lock()
	passes.of[name]++
	nth := fmt.Sprintf("%s@%d", name, passes.of[name])
	passes.Unlock()
	if f := trace(); f != nil {
		fmt.Fprintln(f, name)
	}
	if listed("CTRD_CRASH", name, nth) {
		unix.Kill(unix.Getpid(), unix.SIGKILL)
		select {}
	}
	if listed("CTRD_STOP", name, nth) {
		// A signal to this very thread: it does not take one step further.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP)
	}
}

func listed(variable, name, nth string) bool {
	for want := range strings.SplitSeq(os.Getenv(variable), ",") {
		if want == name || want == nth {
			return true
		}
	}
	return false
}
