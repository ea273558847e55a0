// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// finish gives the directories their modes, owners and times, the deepest first: what is made in a
// directory changes its time, and its mode may forbid to make anything.
func (u *unpacker) finish() error {
	if u.plinks {
		u.forget(plinkDir)
		if err := u.root.RemoveAll(plinkDir); err != nil {
			return fmt.Errorf("remove %s: %w", plinkDir, err)
		}
	}
	if err := u.dropWhiteouts(); err != nil {
		return err
	}
	for _, path := range slices.Backward(u.order) {
		d := u.dirs[path]
		if d.done {
			continue
		}
		d.done = true
		fd, err := u.fd(path)
		if err == nil {
			err = u.finishDir(fd, d)
		} else if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			d.gone = true // a later entry replaced it, or one above it
			err = nil
		}
		if err != nil {
			return fmt.Errorf("layer entry %q: %w", short(path), err)
		}
	}
	return nil
}

func (u *unpacker) finishDir(fd int, d *dirMeta) error {
	if d.opaque {
		if err := unix.Fsetxattr(fd, u.opaqueXattr, []byte("y"), 0); err != nil {
			return fmt.Errorf("make opaque: set extended attribute %q: %w", u.opaqueXattr, err)
		}
	}
	if !d.made {
		return nil
	}
	if err := setXattrs(d.xattrs, unix.S_IFDIR, func(name string, value []byte) error {
		return unix.Fsetxattr(fd, name, value, 0)
	}); err != nil {
		return err
	}
	if u.foreign || d.uid != u.euid || d.gid != u.egid {
		if err := unix.Fchown(fd, d.uid, d.gid); err != nil {
			return fmt.Errorf("chown to %d:%d: %w", d.uid, d.gid, err)
		}
	}
	if err := unix.Fchmod(fd, d.mode); err != nil {
		return fmt.Errorf("chmod to %o: %w", d.mode, err)
	}
	if !d.entry {
		return nil
	}
	return futimens(fd, &d.times)
}

// dropWhiteouts removes the whiteouts below opaque directories. They hide nothing, and since overlayfs
// merges no such directory it would not hide them either.
func (u *unpacker) dropWhiteouts() error {
	for path, d := range u.dirs {
		if len(d.whiteouts) == 0 || !u.belowOpaque(path) {
			continue
		}
		fd, err := u.fd(path)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		} else if err != nil {
			return fmt.Errorf("layer entry %q: %w", short(path), err)
		}
		for _, name := range d.whiteouts {
			var st unix.Stat_t
			if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || !isWhiteout(&st) {
				continue // a later entry of the same name
			}
			if err := unix.Unlinkat(fd, name, 0); err != nil {
				return fmt.Errorf("layer entry %q: remove whiteout: %w", short(join(path, name)), err)
			}
		}
	}
	return nil
}

func (u *unpacker) belowOpaque(path string) bool {
	for {
		if d := u.dirs[path]; d != nil && d.opaque {
			return true
		}
		if path == "" {
			return false
		}
		path, _ = split(path)
	}
}
