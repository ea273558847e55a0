// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// mountRootfs mounts what the snapshot is made of, in our own mount namespace. Nothing of it reaches the
// host's.
func mountRootfs(rootfs string, mounts []taskapi.Mount, shared []ask.Bind) error {
	if len(mounts) == 0 {
		return nil
	}
	if err := os.MkdirAll(rootfs, 0o711); err != nil {
		return err
	}
	if err := isolate(rootfs, shared); err != nil {
		return fmt.Errorf("isolate %s: %w", rootfs, err)
	}
	all := make([]mount.Mount, len(mounts))
	for i, m := range mounts {
		all[i] = mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return mount.All(all, rootfs)
}

// isolate keeps mounts below dir from the host. The mount that dir lies on becomes a slave: what the host
// mounts there still comes in. Volumes that lie on the same mount and are to pass mounts on to the host
// are first cloned: a clone stays a peer of the host's mount.
func isolate(dir string, shared []ask.Bind) error {
	parent, err := mount.Parent(dir)
	if err != nil {
		return err
	}
	clones := make(map[string]int)
	defer func() {
		for _, fd := range clones {
			unix.Close(fd)
		}
	}()
	for _, b := range shared {
		on, err := mount.Parent(b.Source)
		if err != nil || on != parent {
			continue
		}
		flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
		if b.Recursive {
			flags |= unix.AT_RECURSIVE
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, b.Source, flags)
		if err != nil {
			return &os.PathError{Op: "open_tree", Path: b.Source, Err: err}
		}
		clones[b.Source] = fd
	}
	if err := unix.Mount("", parent, "", unix.MS_SLAVE, ""); err != nil {
		return &os.PathError{Op: "make slave", Path: parent, Err: err}
	}
	for source, fd := range clones {
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, source, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return &os.PathError{Op: "move_mount", Path: source, Err: err}
		}
	}
	return nil
}

// unmountRootfs takes the rootfs away. Whatever keeps it busy keeps only the mount alive, not its place.
func unmountRootfs(dir string) error {
	return mount.Unmount(filepath.Join(dir, taskdir.Rootfs), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}
