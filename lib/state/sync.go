// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// SyncFS writes out the file system that f is on, and finds out whether something of it could not be written. It learns
// of errors since f was opened. Linux tells them there since 5.8; before, each file of the trees at paths is asked with
// fsync besides, which tells an error that nobody has been told yet. So paths are what the caller has written.
func SyncFS(f *os.File, paths ...string) error {
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "sync", Path: f.Name(), Err: err}
	}
	if syncfsTells() {
		return nil
	}
	for _, path := range paths {
		if err := syncTree(path); err != nil {
			return err
		}
	}
	return nil
}

var syncfsTells = sync.OnceValue(func() bool {
	var u unix.Utsname
	return unix.Uname(&u) == nil && atLeast(unix.ByteSliceToString(u.Release[:]), 5, 8)
})

// atLeast compares the release of a kernel, such as 5.4.0-26-generic.
func atLeast(release string, major, minor int) bool {
	first, rest, _ := strings.Cut(release, ".")
	second := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	a, err := strconv.Atoi(first)
	b, err2 := strconv.Atoi(second)
	return err == nil && err2 == nil && (a > major || a == major && b >= minor)
}

// syncTree calls fsync for each file and directory of a tree. What is gone by then needs none.
func syncTree(path string) error {
	return filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !e.Type().IsRegular() {
			return nil
		}
		var f *os.File
		if err == nil {
			f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
