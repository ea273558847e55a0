// SPDX-License-Identifier: Apache-2.0

// Package btrfs makes, takes snapshots of and removes subvolumes of a btrfs file system (btrfs-ioctl(2)). It starts no
// program. A subvolume is told by the directory that it is seen as.
package btrfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Requests of linux/btrfs.h.
const (
	iocSubvolCreate = 0x5000940e
	iocSnapDestroy  = 0x5000940f
	iocSnapCreate   = 0x50009417 // BTRFS_IOC_SNAP_CREATE_V2
	iocGetFlags     = 0x80089419
	iocSetFlags     = 0x4008941a

	flagReadOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY
	rootInode    = 256    // BTRFS_FIRST_FREE_OBJECTID, which is the inode of every subvolume's root
)

// volArgs is struct btrfs_ioctl_vol_args.
type volArgs struct {
	fd   int64
	name [4088]byte
}

// volArgs2 is struct btrfs_ioctl_vol_args_v2.
type volArgs2 struct {
	fd, transid, flags uint64
	unused             [4]uint64
	name               [4040]byte
}

// On tells whether a directory lies on a btrfs file system.
func On(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return st.Type == unix.BTRFS_SUPER_MAGIC, nil
}

// Create makes an empty subvolume, with mode 0755. One that is there is errdefs.ErrAlreadyExists.
func Create(path string) error {
	dir, name, err := place(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	var args volArgs
	copy(args.name[:len(args.name)-1], name)
	if err := ioctl(dir, iocSubvolCreate, unsafe.Pointer(&args)); err != nil {
		return failed("make subvolume", path, err)
	}
	return os.Chmod(path, 0o755)
}

// Snapshot makes a subvolume of what another one has, which shares its data; with readOnly nobody can write to it. What
// was written to the other one before is part of it. Subvolumes below the other one are empty directories in it.
func Snapshot(of, path string, readOnly bool) error {
	src, err := os.Open(of)
	if err != nil {
		return err
	}
	defer src.Close()
	dir, name, err := place(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	args := volArgs2{fd: uint64(src.Fd())}
	if readOnly {
		args.flags = flagReadOnly
	}
	copy(args.name[:len(args.name)-1], name)
	if err := ioctl(dir, iocSnapCreate, unsafe.Pointer(&args)); err != nil {
		return failed("take snapshot of "+of+" as", path, err)
	}
	return nil
}

// Protect makes a subvolume read-only, or writable again. It is durable with the next sync of the file system.
func Protect(path string, readOnly bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return protect(f, readOnly)
}

func protect(f *os.File, readOnly bool) error {
	var was uint64
	if err := ioctl(f, iocGetFlags, unsafe.Pointer(&was)); err != nil {
		return failed("flags of subvolume", f.Name(), err)
	}
	now := was &^ flagReadOnly
	if readOnly {
		now |= flagReadOnly
	}
	if now == was {
		return nil
	}
	if err := ioctl(f, iocSetFlags, unsafe.Pointer(&now)); err != nil {
		return failed("change flags of subvolume", f.Name(), err)
	}
	return nil
}

// IsSubvolume tells whether an open directory is the root of a subvolume.
func IsSubvolume(f *os.File) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Ino == rootInode &&
		unix.Fstatfs(int(f.Fd()), &fs) == nil && fs.Type == unix.BTRFS_SUPER_MAGIC
}

// Destroy removes the subvolume name in a directory with all that is in it, but for subvolumes below it: while there is
// one, it is unix.ENOTEMPTY. Without CAP_SYS_ADMIN it is unix.EPERM, unless the file system was mounted with
// user_subvol_rm_allowed.
func Destroy(dir *os.File, name string) error {
	var args volArgs
	if len(name) >= len(args.name) {
		return unix.ENAMETOOLONG
	}
	copy(args.name[:], name)
	return ioctl(dir, iocSnapDestroy, unsafe.Pointer(&args))
}

// Unprotect makes an open subvolume writable, so that the files in it can be removed one by one.
func Unprotect(f *os.File) error { return protect(f, false) }

// place opens the directory in which a subvolume is to be made.
func place(path string) (dir *os.File, name string, err error) {
	dir, err = os.Open(filepath.Dir(path))
	return dir, filepath.Base(path), err
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

func failed(op, path string, err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
	case errors.Is(err, unix.ENOTTY):
		err = fmt.Errorf("it is not on btrfs: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}
