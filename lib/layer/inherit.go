// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Implied is what a layer leaves to those below it. Apply knows only the layer; [Inherit] makes it good when
// the layers below are known.
type Implied struct {
	// Dirs are the directories that the layer has files in and no entry for, as paths from its root, which is
	// "". Each stands behind those that it is in.
	Dirs []string
	// Whiteouts are the directories that have any.
	Whiteouts []string
	// OpaqueRoot says that the layer hides all that is below it.
	OpaqueRoot bool
}

// None tells whether there is nothing to make good.
func (i Implied) None() bool { return len(i.Dirs) == 0 && len(i.Whiteouts) == 0 && !i.OpaqueRoot }

// implied lists what Apply could not know.
func (u *unpacker) implied() Implied {
	all := Implied{OpaqueRoot: u.dirs[""].opaque}
	for _, path := range u.order {
		if d := u.dirs[path]; d.made && !d.entry && !d.fresh && !d.gone {
			all.Dirs = append(all.Dirs, path)
		}
		if d := u.dirs[path]; len(d.whiteouts) > 0 && !d.gone && !u.belowOpaque(path) {
			all.Whiteouts = append(all.Whiteouts, path)
		}
	}
	return all
}

// Inherit makes the unpacked layer at dir one that can be stacked on the layers at below, the top first. A
// changeset changes only what it lists (OCI image specification, layer.md): so its implied directories get
// mode, owner, extended attributes and times of the directory that an overlay of below shows there, if it
// shows one. Overlayfs takes no notice of an opaque root: each name that below has in its root is hidden by
// itself. It lists the whiteouts of a directory that it merges with none: where below shows no directory, they
// are removed, as they hide nothing. The layers below must have been made good already. Doing it again changes
// nothing.
func Inherit(dir string, implied Implied, below []string) (err error) {
	if implied.None() {
		return nil
	}
	own, err := newTree(dir)
	if err != nil {
		return fmt.Errorf("stack layer: %w", err)
	}
	defer own.close()
	v := &view{own: own, below: below, shown: map[string][]int{}}
	if implied.OpaqueRoot {
		if err := v.hide(); err != nil {
			return fmt.Errorf("stack layer %s: opaque root: %w", dir, err)
		}
	}
	for _, path := range implied.Dirs {
		if err := v.inherit(path); err != nil {
			return fmt.Errorf("stack layer %s: directory %q: %w", dir, short(path), err)
		}
	}
	for _, path := range implied.Whiteouts {
		if err := v.dropIdle(path); err != nil {
			return fmt.Errorf("stack layer %s: whiteouts of %q: %w", dir, short(path), err)
		}
	}
	return nil
}

// view is a layer above others. It keeps no descriptor of those below open, as there may be hundreds.
type view struct {
	own   *tree
	below []string         // the top first
	shown map[string][]int // what at has found
}

// inherit gives one directory what it has in the layers below.
func (v *view) inherit(path string) error {
	there, err := v.at(path)
	if err != nil || len(there) == 0 {
		return err
	}
	from, err := openBelow(v.below[there[0]], path)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := v.own.fd(path)
	if err != nil {
		return err
	}
	return copyMeta(from, to)
}

// at lists those of the layers below whose directory at a path is seen through the layer and those above it,
// the top first. None is seen below an opaque directory, or below something else of that name.
func (v *view) at(path string) (there []int, err error) {
	if there, ok := v.shown[path]; ok {
		return there, nil
	}
	var among []int
	if path == "" {
		for i := range v.below {
			among = append(among, i)
		}
	} else {
		parent, _ := split(path)
		fd, err := v.own.fd(parent)
		if err != nil {
			return nil, err
		}
		if !isOpaque(fd) {
			if among, err = v.at(parent); err != nil {
				return nil, err
			}
		}
	}
	for _, i := range among {
		fd, err := openBelow(v.below[i], path)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			break
		}
		if err != nil {
			return nil, err
		}
		there = append(there, i)
		opaque := isOpaque(fd)
		unix.Close(fd)
		if opaque {
			break
		}
	}
	v.shown[path] = there
	return there, nil
}

// openBelow opens a directory of a layer, of which no component may be a symbolic link.
func openBelow(dir, path string) (int, error) {
	fd, err := openat(unix.AT_FDCWD, dir, dirFlags, 0)
	for path != "" && err == nil {
		var name string
		name, path, _ = strings.Cut(path, "/")
		parent := fd
		fd, err = openat(parent, name, dirFlags, 0)
		unix.Close(parent)
	}
	return fd, err
}

// dropIdle removes the whiteouts of a directory that hides none.
func (v *view) dropIdle(path string) error {
	if there, err := v.at(path); err != nil || len(there) > 0 {
		return err
	}
	own := v.own
	fd, err := own.fd(path)
	if err != nil {
		return err
	}
	var before unix.Stat_t
	if err := unix.Fstat(fd, &before); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	d, err := own.root.Open(pathOrDot(path))
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || !isWhiteout(&st) {
			continue
		}
		if err := unix.Unlinkat(fd, name, 0); err != nil {
			return fmt.Errorf("remove %q: %w", short(name), err)
		}
	}
	return futimens(fd, &[2]unix.Timespec{before.Atim, before.Mtim})
}

func pathOrDot(path string) string {
	if path == "" {
		return "."
	}
	return path
}

var opaqueXattrs = []string{"trusted.overlay.opaque", "user.overlay.opaque"}

func isOpaque(fd int) bool {
	var v [1]byte
	for _, name := range opaqueXattrs {
		if n, err := unix.Fgetxattr(fd, name, v[:]); err == nil && n == 1 && v[0] == 'y' {
			return true
		}
	}
	return false
}

// copyMeta gives an open file or directory all that another one has besides its data or entries.
func copyMeta(from, to int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil { // takes capabilities, and set-id bits
		return fmt.Errorf("chown to %d:%d: %w", st.Uid, st.Gid, err)
	}
	names, err := listXattrs(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if HostXattr(name) {
			continue
		}
		value := make([]byte, maxXattr)
		n, err := unix.Fgetxattr(from, name, value)
		if err != nil {
			return fmt.Errorf("read extended attribute %q: %w", name, err)
		}
		if err := unix.Fsetxattr(to, name, value[:n], 0); err != nil {
			return fmt.Errorf("set extended attribute %q: %w", name, err)
		}
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod to %o: %w", st.Mode&0o7777, err)
	}
	return futimens(to, &[2]unix.Timespec{st.Atim, st.Mtim})
}

func listXattrs(fd int) ([]string, error) {
	buf := make([]byte, maxXattrNames)
	n, err := unix.Flistxattr(fd, buf)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
}

// hide puts a whiteout into the root for each name that the layers below show there, and makes a directory
// of the same name opaque. The root keeps its times.
func (v *view) hide() error {
	root, err := v.own.fd("")
	if err != nil {
		return err
	}
	var before unix.Stat_t
	if err := unix.Fstat(root, &before); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	attr := opaqueXattrs[0]
	if n, err := unix.Fgetxattr(root, opaqueXattrs[1], nil); err == nil && n > 0 {
		attr = opaqueXattrs[1]
	}
	for _, dir := range v.below {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		for err == nil {
			var names []string
			names, err = d.Readdirnames(1000)
			for _, name := range names {
				if herr := hideName(v.own, root, name, attr); herr != nil {
					d.Close()
					return herr
				}
			}
		}
		d.Close()
		if err != io.EOF {
			return err
		}
	}
	return futimens(root, &[2]unix.Timespec{before.Atim, before.Mtim})
}

func hideName(own *tree, root int, name, attr string) error {
	err := unix.Mknodat(root, name, unix.S_IFCHR, 0)
	if err == nil {
		return nil
	}
	if err != unix.EEXIST {
		return fmt.Errorf("make whiteout %q: %w", short(name), err)
	}
	fd, err := own.fd(name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // what is no directory hides what is below by itself
	}
	if err != nil {
		return err
	}
	if err := unix.Fsetxattr(fd, attr, []byte("y"), 0); err != nil {
		return fmt.Errorf("make %q opaque: %w", short(name), err)
	}
	return nil
}
