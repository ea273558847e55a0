// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Copy copies the tree at from into the empty directory at to: files of all types with their holes, links among
// themselves, owners, modes, times to the nanosecond and the extended attributes that an image can have. Where the file
// system can, both share the data until one of them is written (FICLONE of ioctl_ficlonerange(2)). It enters no other
// file system. Nothing may change from meanwhile. An error leaves a part of the copy. Nothing is synced.
func Copy(ctx context.Context, from, to string) error {
	a, err := openat(unix.AT_FDCWD, from, dirFlags, 0)
	if err != nil {
		return &os.PathError{Op: "open tree", Path: from, Err: err}
	}
	defer unix.Close(a)
	b, err := openat(unix.AT_FDCWD, to, dirFlags, 0)
	if err != nil {
		return &os.PathError{Op: "open tree", Path: to, Err: err}
	}
	defer unix.Close(b)
	c := copier{ctx: ctx, top: b, clones: true, names: map[uint64]string{}}
	var st unix.Stat_t
	if err := unix.Fstat(a, &st); err != nil {
		return &os.PathError{Op: "stat", Path: from, Err: err}
	}
	c.dev = st.Dev
	if err := c.directory(a, b, ""); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}

type copier struct {
	ctx    context.Context
	top    int // of the copy
	dev    uint64
	clones bool              // the file system may share data
	names  map[uint64]string // of inodes with several names: the path of the copy
}

func (c *copier) directory(from, to int, path string) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	names, err := namesIn(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.name(from, to, name, join(path, name)); err != nil {
			return fmt.Errorf("%q: %w", short(name), err)
		}
	}
	return copyMeta(from, to)
}

func (c *copier) name(from, to int, name, path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Dev != c.dev {
		return nil
	}
	kind := st.Mode & unix.S_IFMT
	if st.Nlink > 1 && kind != unix.S_IFDIR {
		if first, ok := c.names[st.Ino]; ok {
			return unix.Linkat(c.top, first, to, name, 0)
		}
		c.names[st.Ino] = path
	}
	switch kind {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(to, name, createMode); err != nil {
			return err
		}
		return inDir(from, name, func(a int) error {
			return inDir(to, name, func(b int) error { return c.directory(a, b, path) })
		})
	case unix.S_IFREG:
		return c.file(from, to, name, &st)
	case unix.S_IFLNK:
		target := make([]byte, maxPath)
		n, err := unix.Readlinkat(from, name, target)
		if err == nil {
			err = unix.Symlinkat(string(target[:n]), to, name)
		}
		if err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(to, name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return copyMetaOf(from, to, name, &st)
}

// copyMetaOf is copyMeta of a name that is not opened, because opening it could act or block.
func copyMetaOf(from, to int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(to, name, st.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	a, b := procName(from, name), procName(to, name)
	buf := make([]byte, maxXattrNames)
	n, err := unix.Llistxattr(a, buf)
	if err != nil && err != unix.ENOTSUP {
		return fmt.Errorf("list extended attributes: %w", err)
	}
	for attr := range strings.SplitSeq(strings.TrimSuffix(string(buf[:max(n, 0)]), "\x00"), "\x00") {
		if attr == "" || HostXattr(attr) {
			continue
		}
		value := make([]byte, maxXattr)
		n, err := unix.Lgetxattr(a, attr, value)
		if err == nil {
			err = unix.Lsetxattr(b, attr, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("extended attribute %q: %w", attr, err)
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(to, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

func (c *copier) file(from, to int, name string, st *unix.Stat_t) error {
	a, err := openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	src := os.NewFile(uintptr(a), name)
	defer src.Close()
	b, err := openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	dst := os.NewFile(uintptr(b), name)
	err = c.data(src, dst, st.Size)
	if err == nil {
		err = copyMeta(a, b)
	}
	return errors.Join(err, dst.Close())
}

// data copies what is in a file, without its holes.
func (c *copier) data(src, dst *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	if c.clones {
		err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
		switch {
		case err == nil:
			return nil
		case err == unix.EOPNOTSUPP, err == unix.EXDEV, err == unix.ENOTTY, err == unix.ENOSYS:
			c.clones = false
		case err != unix.EINVAL && err != unix.ETXTBSY: // some files cannot be shared
			return fmt.Errorf("share data: %w", err)
		}
	}
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		if err := context.Cause(c.ctx); err != nil {
			return err
		}
		data, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // a hole up to the end
		}
		end := size
		if err == unix.EINVAL {
			data = at // the file system does not tell holes
		} else if err != nil {
			return fmt.Errorf("look for data: %w", err)
		} else if end, err = unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("look for a hole: %w", err)
		}
		for _, f := range []*os.File{src, dst} {
			if _, err := f.Seek(data, io.SeekStart); err != nil {
				return err
			}
		}
		n, err := io.CopyN(dst, src, end-data) // which is copy_file_range(2)
		if err != nil && err != io.EOF {
			return err
		}
		if at = data + n; n == 0 {
			return fmt.Errorf("it has become shorter: %w", io.ErrUnexpectedEOF)
		}
	}
	return nil
}
