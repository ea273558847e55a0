// SPDX-License-Identifier: Apache-2.0

// Package smallfile reads small files, of the kernel and of tasks, with the fewest system calls: open, read until the end, close. A list
// of many containers reads thousands of them. os.ReadFile makes twice as many calls: it asks for the size, and registers the file
// for polling, which control files of cgroups support.
package smallfile

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Open opens the file at path for reading, and gives a descriptor for the caller to close. Its errors are those of os.Open.
func Open(path string) (fd int, err error) { return openAt(unix.AT_FDCWD, path, unix.O_RDONLY, 0) }

// OpenFile is os.OpenFile of a regular file, which nobody waits for: it spares the five system calls by which os finds out that such a
// file cannot be polled.
func OpenFile(path string, flag int, perm os.FileMode) (*os.File, error) {
	fd, err := openAt(unix.AT_FDCWD, path, flag, uint32(perm.Perm()))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Read gives what the file at path holds. Its errors are those of os.ReadFile.
func Read(path string) ([]byte, error) { return ReadAt(unix.AT_FDCWD, path) }

// ReadAt is Read of a name in the directory that dir has open.
func ReadAt(dir int, name string) ([]byte, error) {
	fd, err := openAt(dir, name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var few [4096]byte
	all := few[:0]
	// A short read is not the end: a file of the kernel gives as many records as fit into a page.
	for {
		if len(all) == cap(all) {
			all = slices.Grow(all, cap(all))
		}
		n, err := unix.Read(fd, all[len(all):cap(all)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: name, Err: err}
		case n == 0:
			return slices.Clone(all), nil
		default:
			all = all[:len(all)+n]
		}
	}
}

// openAt opens a file. A signal may interrupt that on FUSE and NFS.
func openAt(dir int, name string, flag int, perm uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flag|unix.O_CLOEXEC, perm)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR:
		default:
			return -1, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}
