// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Volume is a directory whose mounts are to reach other mount namespaces.
type Volume struct {
	Path      string
	Recursive bool // and those of the mounts below it
}

// Unshared calls do, which mounts something at dir or below, and keeps that from other mount namespaces. What is
// mounted elsewhere propagates before and after as it did: in particular to and from volumes, also those that
// lie on the same mount as dir or have it below them.
//
// Before Linux 5.15 the mount that dir lies on stays a slave of the others, and each volume on it is bound to itself
// to remain their peer; one that has dir below it does not.
func Unshared(dir string, volumes []Volume, do func() error) error {
	parent, shared, err := peer(dir)
	if err != nil {
		return err
	}
	if !shared {
		return do()
	}
	root, err := openTarget(parent, "")
	if err != nil {
		return fmt.Errorf("unshare %s: %w", parent, err)
	}
	defer root.Close()
	like, err := clone(int(root.Fd()), "", 0)
	if err != nil {
		return fmt.Errorf("unshare %s: %w", parent, err)
	}
	defer unix.Close(like)
	if !regroups(like) {
		if err := enslave(root, parent, dir, volumes); err != nil {
			return err
		}
		return do()
	}
	if err := unix.Mount("", procPath(root), "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("unshare %s: %w", parent, err)
	}
	err = do()
	if serr := regroup(like, int(root.Fd())); serr != nil {
		err = errors.Join(err, fmt.Errorf("share %s again: %w", parent, serr))
	}
	return err
}

// peer gives the mount point of the mount that dir lies on, and tells whether it has or may have peers.
func peer(dir string) (mountpoint string, shared bool, err error) {
	fields, err := mountOf(dir)
	if err != nil {
		return "", false, err
	}
	for _, f := range fields[6:] { // optional fields, up to a hyphen
		if f == "-" {
			break
		}
		shared = shared || strings.HasPrefix(f, "shared:")
	}
	return unoctal(fields[4]), shared, nil
}

// clone makes a detached copy of a mount, which is its peer.
func clone(at int, path string, flags uint) (int, error) {
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	fd, err := unix.OpenTree(at, path, flags|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return fd, nil
}

// regroup makes a private mount a peer of another one of the same file system (Linux 5.15).
func regroup(from, to int) error {
	return unix.MoveMount(from, "", to, "", unix.MOVE_MOUNT_SET_GROUP|unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// regroups tries whether the kernel lets a mount become a peer again, with copies of that mount.
var regroups = func(like int) bool {
	probe, err := clone(like, "", 0)
	if err != nil {
		return false
	}
	defer unix.Close(probe)
	private := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	return unix.MountSetattr(probe, "", unix.AT_EMPTY_PATH, &private) == nil && regroup(like, probe) == nil
}

// enslave makes a mount receive from its peers and not give to them. Volumes are cloned before, so that they remain
// peers, and the clones put over them.
func enslave(root *os.File, parent, dir string, volumes []Volume) error {
	clones := make(map[string]int)
	defer func() {
		for _, fd := range clones {
			unix.Close(fd)
		}
	}()
	for _, v := range volumes {
		on, err := Parent(v.Path)
		if _, done := clones[v.Path]; done || err != nil || on != parent || strings.HasPrefix(dir+"/", strings.TrimSuffix(v.Path, "/")+"/") {
			continue
		}
		var flags uint
		if v.Recursive {
			flags = unix.AT_RECURSIVE
		}
		if clones[v.Path], err = clone(unix.AT_FDCWD, v.Path, flags); err != nil {
			delete(clones, v.Path)
			return err
		}
	}
	if err := unix.Mount("", procPath(root), "", unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make %s a slave: %w", parent, err)
	}
	for path, fd := range clones {
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return &os.PathError{Op: "move_mount", Path: path, Err: err}
		}
	}
	return nil
}
