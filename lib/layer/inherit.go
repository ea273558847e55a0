// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"errors"
	"fmt"
	"io"
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
	var lower []*tree
	for _, b := range below {
		t, err := newTree(b)
		if err != nil {
			return fmt.Errorf("stack layer: %w", err)
		}
		defer t.close()
		lower = append(lower, t)
	}
	if implied.OpaqueRoot && len(below) > 0 {
		if err := hide(own, lower); err != nil {
			return fmt.Errorf("stack layer %s: opaque root: %w", dir, err)
		}
	}
	for _, path := range implied.Dirs {
		if err := inherit(own, lower, path); err != nil {
			return fmt.Errorf("stack layer %s: directory %q: %w", dir, short(path), err)
		}
	}
	for _, path := range implied.Whiteouts {
		if err := dropIdle(own, lower, path); err != nil {
			return fmt.Errorf("stack layer %s: whiteouts of %q: %w", dir, short(path), err)
		}
	}
	return nil
}

// inherit gives one directory what it has in the layers below.
func inherit(own *tree, lower []*tree, path string) error {
	from, err := find(own, lower, path)
	if err != nil || from < 0 {
		return err
	}
	to, err := own.fd(path)
	if err != nil {
		return err
	}
	return copyMeta(from, to)
}

// find gives the directory of the layers below that is seen at a path through the layer, or -1.
func find(own *tree, lower []*tree, path string) (int, error) {
	if path != "" {
		parent, _ := split(path)
		if _, covered, err := own.seek(parent); covered || err != nil {
			return -1, err
		}
	}
	for _, t := range lower {
		if fd, covered, err := t.seek(path); fd >= 0 || covered || err != nil {
			return fd, err
		}
	}
	return -1, nil
}

// dropIdle removes the whiteouts of a directory that hides none.
func dropIdle(own *tree, lower []*tree, path string) error {
	if from, err := find(own, lower, path); err != nil || from >= 0 {
		return err
	}
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

// seek opens a directory; -1 says that the tree has none there. covered tells whether the tree keeps those
// below it from being seen there: by something else of that name, or by an opaque directory on the way.
func (t *tree) seek(path string) (fd int, covered bool, err error) {
	at := ""
	for rest := path; ; {
		if fd, err = t.fd(at); err != nil {
			switch {
			case errors.Is(err, unix.ENOENT):
				return -1, covered, nil
			case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
				return -1, true, nil
			}
			return -1, covered, err
		}
		covered = covered || isOpaque(fd)
		if rest == "" {
			return fd, covered, nil
		}
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		at = join(at, name)
	}
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

// copyMeta gives an open directory all that another one has besides its entries.
func copyMeta(from, to int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	names, err := listXattrs(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if hostXattr(name) {
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
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("chown to %d:%d: %w", st.Uid, st.Gid, err)
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
// of the same name opaque.
func hide(own *tree, lower []*tree) error {
	root, err := own.fd("")
	if err != nil {
		return err
	}
	attr := opaqueXattrs[0]
	if n, err := unix.Fgetxattr(root, opaqueXattrs[1], nil); err == nil && n > 0 {
		attr = opaqueXattrs[1]
	}
	for _, t := range lower {
		d, err := t.root.Open(".")
		if err != nil {
			return err
		}
		for err == nil {
			var names []string
			names, err = d.Readdirnames(1000)
			for _, name := range names {
				if herr := hideName(own, root, name, attr); herr != nil {
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
	return nil
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
