// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Merge moves the unpacked layer at dir onto the tree at onto, which is on the same file system, and uses it up. What
// the layer removes is removed there, and what it leaves to those below is as onto has it. With overlaid, onto is the
// upper directory of an overlay on the layers at below, the top first, and what the layer removes is hidden there,
// too. An overlay on no layers is one whose layers are not known yet: all that the layer removes stays hidden. An error leaves a part of the layer in either place. Nothing is synced.
func Merge(ctx context.Context, dir string, implied Implied, onto string, overlaid bool, below ...string) error {
	unknown := overlaid && len(below) == 0
	if unknown {
		implied.Whiteouts = nil
	}
	if err := Inherit(dir, implied, append([]string{onto}, below...)); err != nil {
		return err
	}
	from, err := openat(unix.AT_FDCWD, dir, dirFlags, 0)
	if err != nil {
		return &os.PathError{Op: "open layer", Path: dir, Err: err}
	}
	defer unix.Close(from)
	to, err := openat(unix.AT_FDCWD, onto, dirFlags, 0)
	if err != nil {
		return &os.PathError{Op: "open tree", Path: onto, Err: err}
	}
	defer unix.Close(to)
	m := merger{ctx: ctx, overlaid: overlaid}
	if err := unix.Fstat(from, &m.layer); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := m.directory(from, to); err != nil {
		return fmt.Errorf("merge layer into %s: %w", onto, err)
	}
	if !overlaid || unknown {
		return nil
	}
	// A directory that onto has, and the layers below have not, is merged with none: see Inherit.
	return Inherit(onto, Implied{Whiteouts: implied.Whiteouts}, below)
}

type merger struct {
	ctx      context.Context
	overlaid bool
	layer    unix.Stat_t // its root, which may be in the root of the tree
}

func (m *merger) isLayer(st *unix.Stat_t) bool { return st.Dev == m.layer.Dev && st.Ino == m.layer.Ino }

// directory merges one directory into another one. What is moved away changes the times of the first, so its
// attributes are read before.
func (m *merger) directory(from, to int) error {
	if err := context.Cause(m.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	opaque := isOpaque(from)
	if opaque {
		if err := m.empty(to); err != nil {
			return err
		}
	}
	names, err := namesIn(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := m.name(from, to, name); err != nil {
			return fmt.Errorf("%q: %w", short(name), err)
		}
	}
	if err := dropXattrs(from, to); err != nil {
		return err
	}
	if err := copyMeta(from, to); err != nil {
		return err
	}
	if opaque && m.overlaid {
		if err := unix.Fsetxattr(to, opaqueXattrs[0], []byte("y"), 0); err != nil {
			return fmt.Errorf("make opaque: %w", err)
		}
	}
	return futimens(to, &[2]unix.Timespec{st.Atim, st.Mtim})
}

// name merges one name of a directory.
func (m *merger) name(from, to int, name string) error {
	var is, was unix.Stat_t
	if err := unix.Fstatat(from, name, &is, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	err := unix.Fstatat(to, name, &was, unix.AT_SYMLINK_NOFOLLOW)
	there := err == nil
	if there && m.isLayer(&was) {
		return nil
	}
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("stat: %w", err)
	}
	isDir, wasDir := is.Mode&unix.S_IFMT == unix.S_IFDIR, there && was.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir && wasDir {
		return m.both(from, to, name)
	}
	if there {
		if err := removeName(to, name); err != nil {
			return err
		}
	}
	if isWhiteout(&is) && !m.overlaid {
		return nil
	}
	if err := unix.Renameat(from, name, to, name); err != nil {
		return fmt.Errorf("move: %w", err)
	}
	if !isDir {
		return nil
	}
	fd, err := openat(to, name, dirFlags, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	if !m.overlaid {
		return unhide(fd)
	}
	if there { // it takes the place of something that hid what is below
		return unix.Fsetxattr(fd, opaqueXattrs[0], []byte("y"), 0)
	}
	return nil
}

// empty removes what is in a directory of the tree.
func (m *merger) empty(fd int) error {
	names, err := namesIn(fd)
	for _, name := range names {
		var st unix.Stat_t
		if err = unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && !m.isLayer(&st) {
			err = removeName(fd, name)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", short(name), err)
		}
	}
	return err
}

// both merges directories that are in both places.
func (m *merger) both(from, to int, name string) error {
	a, err := openat(from, name, dirFlags, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(a)
	b, err := openat(to, name, dirFlags, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(b)
	return m.directory(a, b)
}

// unhide makes a directory of a layer, and those in it, ordinary ones: nothing is below that they could hide.
func unhide(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	for _, attr := range opaqueXattrs {
		if err := unix.Fremovexattr(fd, attr); err != nil && err != unix.ENODATA && err != unix.ENOTSUP && err != unix.EPERM {
			return fmt.Errorf("remove %s: %w", attr, err)
		}
	}
	names, err := namesIn(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		var in unix.Stat_t
		if err := unix.Fstatat(fd, name, &in, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("stat %q: %w", short(name), err)
		}
		switch {
		case isWhiteout(&in):
			err = unix.Unlinkat(fd, name, 0)
		case in.Mode&unix.S_IFMT == unix.S_IFDIR:
			err = inDir(fd, name, unhide)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", short(name), err)
		}
	}
	return futimens(fd, &[2]unix.Timespec{st.Atim, st.Mtim})
}

// inDir calls fn with a directory that it opens.
func inDir(parent int, name string, fn func(fd int) error) error {
	fd, err := openat(parent, name, dirFlags, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	return fn(fd)
}

// removeName removes a name with all that is in it.
func removeName(parent int, name string) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == unix.EISDIR {
		if err = inDir(parent, name, removeIn); err == nil {
			err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
		}
	}
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// removeIn empties a directory.
func removeIn(fd int) error {
	names, err := namesIn(fd)
	for _, name := range names {
		if err = removeName(fd, name); err != nil {
			return fmt.Errorf("%q: %w", short(name), err)
		}
	}
	return err
}

// namesIn lists a directory.
func namesIn(fd int) ([]string, error) {
	own, err := openat(fd, ".", dirFlags, 0) // with an offset of its own
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	f := os.NewFile(uintptr(own), ".")
	defer f.Close()
	return f.Readdirnames(-1)
}

// dropXattrs removes from to the extended attributes of an image that from does not have.
func dropXattrs(from, to int) error {
	keep := map[string]bool{}
	names, err := listXattrs(from)
	for _, name := range names {
		keep[name] = true
	}
	if err == nil {
		names, err = listXattrs(to)
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if keep[name] || HostXattr(name) {
			continue
		}
		if err := unix.Fremovexattr(to, name); err != nil && err != unix.ENODATA {
			return fmt.Errorf("remove extended attribute %q: %w", name, err)
		}
	}
	return nil
}

// procName is a name that calls take which know no descriptor of a directory.
func procName(dir int, name string) string { return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name }
