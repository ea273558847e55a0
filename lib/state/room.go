// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// RoomError says which file system has no room for something. Its kind is that of Err.
type RoomError struct {
	Path   string // a directory of that file system
	Bytes  uint64 // that were free when it was full
	Inodes uint64 // likewise; a file system that makes them as needed has none to tell
	Err    error
}

// NoRoom makes a [*RoomError] of an error that is for want of room, blocks, inodes or quota, and gives any other as it
// is. The path, or what of it is there, tells the file system.
func NoRoom(err error, path string) error {
	var already *RoomError
	if !noRoom(err) || errors.As(err, &already) {
		return err
	}
	var st unix.Statfs_t
	for unix.Statfs(path, &st) == unix.ENOENT && path != "/" {
		path = filepath.Dir(path)
	}
	return &RoomError{Path: path, Bytes: st.Bfree * uint64(st.Frsize), Inodes: st.Ffree, Err: err}
}

// Error names the file system and what is free there.
func (e *RoomError) Error() string {
	return fmt.Sprintf("%v: the file system of %s has %d KiB and %d inodes free, and more is needed", e.Err, e.Path, e.Bytes>>10, e.Inodes)
}

// Unwrap gives the cause.
func (e *RoomError) Unwrap() error { return e.Err }

// Hint names the next step.
func (e *RoomError) Hint() string {
	return "ctr-image rm and ctr-task rm make room; ctrd du shows what takes it"
}
