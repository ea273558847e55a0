// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// MakeFIFO makes a FIFO that only its owner may open.
func MakeFIFO(path string) error {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return nil
}

// OpenReader opens the read end of a FIFO without waiting for a writer. Reads of the file block the
// goroutine, not a thread; until a writer has come they return io.EOF.
func OpenReader(path string) (*os.File, error) { return openFIFO(path, unix.O_RDONLY) }

// OpenWriter opens the write end of a FIFO. It does not wait: without a reader it is
// errdefs.ErrUnavailable.
func OpenWriter(path string) (*os.File, error) {
	f, err := openFIFO(path, unix.O_WRONLY)
	if pe, ok := err.(*os.PathError); ok && pe.Err == unix.ENXIO {
		return nil, fmt.Errorf("%s: nobody reads it: %w", path, errdefs.ErrUnavailable)
	}
	return f, err
}

// OpenBoth opens both ends of a FIFO without waiting for anybody.
func OpenBoth(path string) (r, w *os.File, err error) {
	if r, err = openFIFO(path, unix.O_RDONLY); err != nil {
		return nil, nil, err
	}
	if w, err = openFIFO("/proc/self/fd/"+strconv.Itoa(int(fd(r))), unix.O_WRONLY); err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, w, nil
}

func openFIFO(path string, flags int) (*os.File, error) {
	n, err := ignoringEINTR(func() (int, error) {
		return unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		unix.Close(n)
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		unix.Close(n)
		return nil, fmt.Errorf("%s is not a FIFO: %w", path, errdefs.ErrInvalidArgument)
	}
	return os.NewFile(uintptr(n), path), nil
}

// Blocking makes reads and writes through the file's open description wait, as programs expect of their
// stdin and stdout. Our own use of the file is over then.
func Blocking(f *os.File) error {
	return os.NewSyscallError("set blocking", unix.SetNonblock(int(fd(f)), false))
}

// fd is the descriptor, its non-blocking mode left as it is.
func fd(f *os.File) uintptr {
	var n uintptr
	if c, err := f.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { n = fd })
	}
	return n
}

func ignoringEINTR(fn func() (int, error)) (int, error) {
	for {
		n, err := fn()
		if err != unix.EINTR {
			return n, err
		}
	}
}
