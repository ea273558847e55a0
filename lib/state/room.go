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
	Inodes uint64 // likewise
	Grows  bool   // it makes inodes as they are needed, and Inodes is 0
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
	e := &RoomError{Path: path, Bytes: st.Bfree * uint64(st.Frsize), Inodes: st.Ffree, Grows: st.Files == 0, Err: err}
	if e.Grows { // btrfs counts as free what it has set aside for metadata
		e.Bytes = st.Bavail * uint64(st.Frsize)
	}
	return e
}

// Error names the file system and what is free there.
func (e *RoomError) Error() string {
	inodes := ""
	if !e.Grows {
		inodes = fmt.Sprintf(" and %d inodes", e.Inodes)
	}
	return fmt.Sprintf("%v: the file system of %s has %d KiB%s free, and more is needed", e.Err, e.Path, e.Bytes>>10, inodes)
}

// Unwrap gives the cause.
func (e *RoomError) Unwrap() error { return e.Err }

// Hint names the next step.
func (e *RoomError) Hint() string {
	return "ctr-image rm and ctr-task rm make room; ctrd du shows what takes it"
}
