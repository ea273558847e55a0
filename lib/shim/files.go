// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// firstFree is the first descriptor that is not stdin, stdout or stderr.
const firstFree = 3

// closeInherited closes every descriptor that the starter left open but those that are kept: a lock, a pipe or
// a terminal among them would otherwise stay open as long as the supervisor lives. A descriptor that came
// through exec is not close-on-exec, and all that this process has opened itself is. It is called before the
// first child is started.
func closeInherited(keep ...int) error {
	for _, fd := range keep {
		unix.CloseOnExec(fd)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < firstFree {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// inherited finds the descriptor that the starter left open of the file at path; -1 when there is none.
func inherited(path string) int {
	var want, have unix.Stat_t
	if unix.Stat(path, &want) != nil {
		return -1
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < firstFree {
			continue
		}
		if unix.Fstat(fd, &have) == nil && have.Dev == want.Dev && have.Ino == want.Ino {
			return fd
		}
	}
	return -1
}
