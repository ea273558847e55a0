// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Usage counts what the tree at dir occupies: bytes of disk blocks and inodes, dir included, each inode
// once however many names it has. It follows no symbolic link and enters no other file system. What
// vanishes meanwhile is not counted.
func Usage(ctx context.Context, dir string) (size, inodes int64, err error) {
	f, err := os.OpenFile(dir, dirFlags, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("disk usage: %w", err)
	}
	c := counter{ctx: ctx, linked: map[uint64]bool{}}
	if err := unix.Fstat(int(f.Fd()), &c.top); err != nil {
		f.Close()
		return 0, 0, fmt.Errorf("disk usage: %w", err)
	}
	c.add(&c.top)
	if err := c.walk(f, nil); err != nil {
		return 0, 0, fmt.Errorf("disk usage of %s: %w", dir, err)
	}
	return c.size, c.inodes, nil
}

// UsageBeside is [Usage] of a tree that began as a snapshot of another one, with the numbers of its inodes: what is still
// the same there, by number and time of change, is not counted. A file that was changed counts whole, as it would where
// it was copied for that. Without the other tree it is Usage.
func UsageBeside(ctx context.Context, dir, other string) (size, inodes int64, err error) {
	f, err := os.OpenFile(dir, dirFlags, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("disk usage: %w", err)
	}
	c := counter{ctx: ctx, linked: map[uint64]bool{}}
	was, err := os.OpenFile(other, dirFlags, 0)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &c.top)
	}
	if err == nil && was != nil {
		err = unix.Fstat(int(was.Fd()), &c.otherTop)
	}
	if err != nil {
		f.Close()
		was.Close()
		return 0, 0, fmt.Errorf("disk usage: %w", err)
	}
	c.add(&c.top)
	if err := c.walk(f, was); err != nil {
		return 0, 0, fmt.Errorf("disk usage of %s: %w", dir, err)
	}
	return c.size, c.inodes, nil
}

type counter struct {
	ctx          context.Context
	top          unix.Stat_t
	otherTop     unix.Stat_t     // of the tree beside it
	linked       map[uint64]bool // inodes with several names
	size, inodes int64
}

func (c *counter) add(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if c.linked[st.Ino] {
			return
		}
		c.linked[st.Ino] = true
	}
	c.size += st.Blocks * 512
	c.inodes++
}

// walk counts what is in a directory and not in the same one of the tree beside it, was, which may be nil, and closes
// both. The names are read to the end before the first directory in it is opened, so the depth costs two descriptors a
// level and no more.
func (c *counter) walk(f, was *os.File) error {
	defer f.Close()
	defer was.Close()
	fd := int(f.Fd())
	var dirs []string
	for {
		if err := context.Cause(c.ctx); err != nil {
			return err
		}
		names, err := f.Readdirnames(1024)
		for _, name := range names {
			var st unix.Stat_t
			err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
			switch {
			case errors.Is(err, unix.ENOENT):
				continue
			case err != nil:
				return fmt.Errorf("stat %q: %w", name, err)
			case st.Dev != c.top.Dev:
				continue
			}
			if !c.same(was, name, &st) {
				c.add(&st)
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				dirs = append(dirs, name)
			}
		}
		if err == io.EOF || len(names) == 0 && err == nil {
			break
		}
		if err != nil {
			return err
		}
	}
	for _, name := range dirs {
		sub, err := openat(fd, name, dirFlags, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open directory %q: %w", name, err)
		}
		if err := c.walk(os.NewFile(uintptr(sub), name), c.beside(was, name)); err != nil {
			return err
		}
	}
	return nil
}

// same tells whether a name is the same inode in the directory beside it, unchanged.
func (c *counter) same(was *os.File, name string, st *unix.Stat_t) bool {
	if was == nil {
		return false
	}
	var old unix.Stat_t
	return unix.Fstatat(int(was.Fd()), name, &old, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		old.Dev == c.otherTop.Dev && old.Ino == st.Ino && old.Ctim == st.Ctim && old.Mode == st.Mode
}

// beside opens the directory of a name beside it, if there is one.
func (c *counter) beside(was *os.File, name string) *os.File {
	if was == nil {
		return nil
	}
	fd, err := openat(int(was.Fd()), name, dirFlags, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), name)
}
