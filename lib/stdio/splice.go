// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"os"

	"golang.org/x/sys/unix"
)

// spliceSize is how much Splice moves at most in one call, in bytes: a pipe's usual size.
const spliceSize = 64 << 10

// Splice moves what comes from one pipe or FIFO into another, until the first one ends, one of them is closed, or
// nobody reads the second one any more. It needs no buffer, and waiting costs no thread.
func Splice(dst, src *os.File) {
	from, err := src.SyscallConn()
	if err != nil {
		return
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return
	}
	for {
		var n int64
		var serr error
		full := false
		err := from.Read(func(in uintptr) bool {
			err := to.Control(func(out uintptr) {
				n, serr = splice(int(out), int(in))
				full = serr == unix.EAGAIN && !writable(int(out))
			})
			if err != nil {
				serr = err
			}
			return serr != unix.EAGAIN || full
		})
		switch {
		case err != nil:
			return
		case full:
			// Wait until the other pipe takes something, or has no reader.
			if to.Write(func(out uintptr) bool { return writable(int(out)) }) != nil {
				return
			}
		case serr != nil || n == 0:
			return
		}
	}
}

func splice(out, in int) (int64, error) {
	for {
		n, err := unix.Splice(in, nil, out, nil, spliceSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// writable tells whether a write would not wait; also when it would fail.
func writable(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0)
	return err == nil && n > 0
}
