// SPDX-License-Identifier: Apache-2.0

// Package tail waits for files that other processes write: for one to appear, and for one to grow.
//
// It waits by inotify(7), and a wait holds no thread. Only at first, for a tenth of a second, it looks
// again and again instead: closing an inotify descriptor, or exiting with one open, costs some ten
// milliseconds (the kernel waits for a grace period), more than all else that a short command does.
package tail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lookFor   = 100 * time.Millisecond // how long inotify is put off
	lookEvery = 300 * time.Microsecond // the first pause; the pauses grow with the time that has passed
)

// Watcher tells that something may have changed in files or directories.
type Watcher struct {
	paths []string
	since time.Time
	f     *os.File // nil while inotify is put off
	buf   [4096]byte
}

const watchMask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM |
	unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_ATTRIB

// Watch begins to watch the paths. A watched directory reports changes of the files in it, too. What
// changes after Watch has returned is seen by the next Wait. A path that is missing is os.ErrNotExist.
func Watch(paths ...string) (*Watcher, error) {
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil {
			return nil, err
		}
	}
	return &Watcher{paths: paths, since: time.Now()}, nil
}

// begin changes over to inotify.
func (w *Watcher) begin() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	for _, p := range w.paths {
		if _, err := unix.InotifyAddWatch(fd, p, watchMask); err != nil {
			f.Close()
			return &os.PathError{Op: "watch", Path: p, Err: err}
		}
	}
	w.f = f
	return nil
}

// Wait returns nil once something has changed since the last Wait that returned nil (at first: since
// Watch). One return may stand for many changes, or for none: look. It returns the context's error when
// ctx ends first, and os.ErrNotExist when a path has gone.
func (w *Watcher) Wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.f == nil {
		passed := time.Since(w.since)
		if passed > lookFor {
			// What changed before is not reported: the caller looks once more.
			return w.begin()
		}
		t := time.NewTimer(max(lookEvery, passed/8))
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
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
	if w == nil || w.f == nil {
		return nil
	}
	return w.f.Close()
}
