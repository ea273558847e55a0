// SPDX-License-Identifier: Apache-2.0

package tail

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// past is a deadline that has gone by.
var past = time.Unix(1, 0)

// Watcher hears of changes to a directory's files: written, made, renamed, removed.
type Watcher struct {
	file *os.File
	buf  [4096]byte
}

// Watch starts to watch path, a directory or a file. What changes after it returned is never missed.
func Watch(path string) (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	const mask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVE_SELF | unix.IN_DELETE | unix.IN_DELETE_SELF
	if _, err := unix.InotifyAddWatch(fd, path, mask); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: path, Err: err}
	}
	return &Watcher{file: os.NewFile(uintptr(fd), "inotify:"+path)}, nil
}

// Wait returns when something has changed since Watch or the last Wait, or with ctx's error.
func (w *Watcher) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { w.file.SetReadDeadline(past) })
	defer stop()
	_, err := w.file.Read(w.buf[:])
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Close ends the watch. A nil Watcher may be closed.
func (w *Watcher) Close() error {
	if w == nil {
		return nil
	}
	return w.file.Close()
}
