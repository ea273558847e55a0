// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/smallfile"
)

// Held is a liveness lock: it ends with the process that holds it, however that ends.
type Held struct {
	path string
	file *os.File
}

// Hold makes the file at path if it is missing and takes its liveness lock. It never waits: when
// another process holds it the error is of kind errdefs.ErrAborted.
func Hold(path string) (*Held, error) {
	for {
		f, err := smallfile.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		lk := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
			f.Close()
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
				return nil, fmt.Errorf("%s is held by %s: %w", path, readOwner(path), errdefs.ErrAborted)
			}
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
		if !sameFile(f, path) {
			f.Close()
			continue
		}
		writeOwner(f)
		return &Held{path: path, file: f}, nil
	}
}

// File is the open lock file. A child that inherits it keeps the lock alive.
func (h *Held) File() *os.File { return h.file }

// Release lets the lock go and leaves the file.
func (h *Held) Release() error {
	lk := unix.Flock_t{Type: unix.F_UNLCK}
	return errors.Join(unix.FcntlFlock(h.file.Fd(), unix.F_OFD_SETLK, &lk), h.file.Close())
}

// Remove removes the file, then lets the lock go.
func (h *Held) Remove() error {
	return errors.Join(os.Remove(h.path), h.Release())
}

// IsHeld tells whether a live process holds the liveness lock at path. It takes nothing, so it disturbs
// nobody who is about to take it. A missing file is not held.
func IsHeld(path string) (bool, error) {
	fd, err := smallfile.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lk); err != nil {
		return false, &os.PathError{Op: "query lock", Path: path, Err: err}
	}
	return lk.Type != unix.F_UNLCK, nil
}

// Moved says that the lock file has another path by now.
func (h *Held) Moved(path string) { h.path = path }
