// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxCPUs is more than any kernel has; libcontainer names as many.
const maxCPUs = 64 << 10

// resetAffinity lets a process run on all processors of its cgroup, whatever its parent may run on. As with libcontainer, one that
// cannot be told so stays as it is.
func resetAffinity(pid int) {
	all := bytes.Repeat([]byte{0xff}, maxCPUs/8)
	unix.Syscall(unix.SYS_SCHED_SETAFFINITY, uintptr(pid), uintptr(len(all)), uintptr(unsafe.Pointer(&all[0])))
}
