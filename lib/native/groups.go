// SPDX-License-Identifier: Apache-2.0

package native

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peerGroups gives the supplementary groups of a peer (unix(7), SO_PEERGROUPS).
func peerGroups(fd int) ([]uint32, error) {
	b := make([]byte, 4*256)
	for {
		n := uint32(len(b))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
		if errno == unix.ERANGE && int(n) > len(b) {
			b = make([]byte, n)
			continue
		}
		if errno != 0 {
			return nil, errno
		}
		var groups []uint32
		for i := 0; i+4 <= int(n); i += 4 {
			groups = append(groups, binary.NativeEndian.Uint32(b[i:]))
		}
		return groups, nil
	}
}
