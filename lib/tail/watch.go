// SPDX-License-Identifier: Apache-2.0

// Package tail waits for files that other processes write: for one to appear, and for one to grow.
//
// It waits by inotify(7), never by polling, and a wait holds no thread.
package tail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher tells that something changed in files or directories.
type Watcher struct {
	f   *os.File
	buf [4096]byte
}

const watchMask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM |
	unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_ATTRIB

// Watch begins to watch the paths. A watched directory reports changes of the files in it, too. What
// changes after Watch has returned is seen by the next Wait.
func Watch(paths ...string) (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &Watcher{f: os.NewFile(uintptr(fd), "inotify")}
	for _, p := range paths {
		if _, err := unix.InotifyAddWatch(fd, p, watchMask); err != nil {
			w.f.Close()
			return nil, &os.PathError{Op: "watch", Path: p, Err: err}
		}
	}
	return w, nil
}

// Wait returns nil once something has changed since the last Wait that returned nil (at first: since
// Watch). One return may stand for many changes. It returns the context's error when ctx ends first.
func (w *Watcher) Wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.f.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { w.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := w.f.Read(w.buf[:])
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("wait for a change: %w", err)
	}
	return nil
}

// Close ends the watching. A nil Watcher may be closed.
func (w *Watcher) Close() error {
	if w == nil {
		return nil
	}
	return w.f.Close()
}
