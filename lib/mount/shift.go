// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// shiftedBy is an extended attribute of an upper directory: the mapping to which all that lies below it in the
// overlay has been brought. Other users do not see it.
const shiftedBy = "trusted.ctrd.shifted"

// overlayShifted does what overlayMapped does by copies, where the kernel or the file system cannot map ids: what
// the lower directories have is given to other owners, and with that copied into the upper one. An upper
// directory that this was finished for is mounted as it is; one that it was begun for is gone on with.
func overlayShifted(source string, at *os.File, flags uintptr, data []string, m idMaps) error {
	s, err := parseStack(data)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(s.layers, func(l layer) bool { return l.key == "upperdir" })
	if i < 0 {
		return fmt.Errorf("neither the kernel and the file system can map ids, nor is there an upper directory for copies: %w", errdefs.ErrNotImplemented)
	}
	upper, want := s.layers[i].path, fmt.Sprint(m)
	done := make([]byte, len(want)+1)
	if n, err := unix.Getxattr(upper, shiftedBy, done); err == nil && string(done[:n]) == want {
		return overlay(source, at, flags, data)
	}
	// What the lower directories show by themselves.
	below := &stack{rest: s.rest, layers: s.layers[:s.lower], lower: s.lower}
	if s.lower == 1 {
		empty, err := os.MkdirTemp("", "ctrd-empty-") // an overlay without an upper directory has at least two
		if err != nil {
			return err
		}
		defer os.Remove(empty)
		below.layers, below.lower = append(below.layers[:1:1], layer{key: "lowerdir+", path: empty}), 2
	}
	if err := below.mount("overlay", at, unix.MS_RDONLY); err != nil {
		return err
	}
	before, err := os.OpenRoot(at.Name())
	if err == nil {
		defer before.Close()
		err = unix.Unmount(at.Name(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err == nil {
		err = overlay(source, at, flags, data)
	}
	if err != nil {
		return err
	}
	after, err := os.OpenRoot(at.Name())
	if err == nil {
		defer after.Close()
		err = shiftAll(before, after, m)
	}
	if err == nil {
		err = unix.Setxattr(upper, shiftedBy, []byte(want), 0)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("give the layers to other owners: %w", err), unix.Unmount(at.Name(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
	}
	return nil
}

// shiftAll gives the files of the tree after to the owners to which those that they have in the tree before are
// mapped. What has another owner by now is left alone.
func shiftAll(before, after *os.Root, m idMaps) error {
	return fs.WalkDir(before.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == "." { // the upper directory's own owner is its maker's care
			return err
		}
		was, err := before.Lstat(path)
		if err != nil {
			return err
		}
		is, err := after.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && is.Mode().Type() != was.Mode().Type() {
			return nil // the container's own doing
		}
		if err != nil {
			return err
		}
		from, now := was.Sys().(*syscall.Stat_t), is.Sys().(*syscall.Stat_t)
		uid, gid := hostID(m.uids, from.Uid), hostID(m.gids, from.Gid)
		if from.Uid != now.Uid || from.Gid != now.Gid || uid == now.Uid && gid == now.Gid {
			return nil
		}
		return shift(after, path, is, int(uid), int(gid))
	})
}

// shift changes the owner of one file and brings back what the kernel takes away with that: set-id bits and
// capabilities.
func shift(root *os.Root, path string, st os.FileInfo, uid, gid int) error {
	var caps []byte
	if st.Mode().IsRegular() {
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		caps = make([]byte, 64) // struct vfs_ns_cap_data has 24 bytes
		n, err := unix.Fgetxattr(int(f.Fd()), "security.capability", caps)
		caps = caps[:max(0, n)]
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return &os.PathError{Op: "getxattr", Path: path, Err: err}
		}
	}
	if err := root.Lchown(path, uid, gid); err != nil {
		return err
	}
	if st.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		if err := root.Chmod(path, st.Mode()); err != nil {
			return err
		}
	}
	if len(caps) > 0 {
		// Opened again: the change of its owner has copied it.
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Fsetxattr(int(f.Fd()), "security.capability", caps, 0); err != nil {
			return &os.PathError{Op: "setxattr", Path: path, Err: err}
		}
	}
	return nil
}

// hostID maps an id. One that has no mapping stays what it is, and nobody's in the user namespace.
func hostID(list []syscall.SysProcIDMap, id uint32) uint32 {
	for _, m := range list {
		if n := int64(id) - int64(m.ContainerID); n >= 0 && n < int64(m.Size) {
			return uint32(int64(m.HostID) + n)
		}
	}
	return id
}
