// SPDX-License-Identifier: Apache-2.0

package tail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrDied is returned by WaitFile when the process ended and the file is not there.
var ErrDied = errors.New("the process ended without writing it")

// WaitFile waits until dir holds name. It also ends, with ErrDied, when the process that pidfd refers
// to has ended without leaving the file; pidfd -1 stands for no process. A directory that is or goes
// missing is an error of kind os.ErrNotExist.
//
// Where there is a process, a file that is written long before its end may be noticed a quarter of a
// second late: see the package's comment.
func WaitFile(ctx context.Context, dir, name string, pidfd int) error {
	path := filepath.Join(dir, name)
	w, err := Watch(dir)
	if err != nil {
		return err
	}
	defer w.Close()
	wctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if pidfd >= 0 {
		w.patient = true
		go func() {
			err := WaitExit(wctx, pidfd)
			if err == nil {
				err = fmt.Errorf("%s: %w", path, ErrDied)
			}
			cancel(err)
		}()
	}
	for {
		ended := wctx.Err() != nil // asked before the look: what a process left is found by it
		if ok, err := exists(path); ok || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if ended {
			return context.Cause(wctx)
		}
		if err := w.Wait(wctx); err != nil && wctx.Err() == nil {
			return err
		}
	}
}

// WaitExit waits until the process that pidfd refers to has ended. pidfd stays the caller's.
func WaitExit(ctx context.Context, pidfd int) error {
	fd, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("set nonblocking", err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(p, 0)
		return n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
