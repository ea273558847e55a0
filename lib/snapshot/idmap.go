// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// Labels of containerd's snapshots: the layers below are seen with the owners that a user namespace maps theirs
// to. A value is a list of CONTAINER:HOST:SIZE, separated by commas.
const (
	LabelUIDMapping = "containerd.io/snapshot/uidmapping"
	LabelGIDMapping = "containerd.io/snapshot/gidmapping"
)

var errNoMap = fmt.Errorf("this kernel, or the file system, cannot map the owners of files (Linux 5.12, btrfs 5.15); the snapshotter overlayfs does without: %w", errdefs.ErrNotImplemented)

// shift gives the root of a new tree to the user and the group to which the labels map its owner.
func shift(root string, labels map[string]string) error {
	uids, gids := labels[LabelUIDMapping], labels[LabelGIDMapping]
	if uids == "" && gids == "" {
		return nil
	}
	st, err := os.Stat(root)
	if err != nil {
		return fmt.Errorf("root of snapshot: %w", err)
	}
	owner := st.Sys().(*syscall.Stat_t)
	uid, err := mapID(uids, owner.Uid)
	if err != nil {
		return err
	}
	gid, err := mapID(gids, owner.Gid)
	if err != nil {
		return err
	}
	if err := os.Lchown(root, int(uid), int(gid)); err != nil {
		return fmt.Errorf("root of snapshot: %w", err)
	}
	// Changing the owner takes the set-group-ID bit.
	if err := os.Chmod(root, st.Mode()); err != nil {
		return fmt.Errorf("root of snapshot: %w", err)
	}
	return nil
}

// mapID finds an id of a container in a list of mappings. One that is not there stays what it is.
func mapID(list string, id uint32) (uint32, error) {
	for part := range strings.SplitSeq(list, ",") {
		var n [3]uint64
		fields := strings.Split(part, ":")
		for i := range n {
			var err error
			if len(fields) == len(n) {
				n[i], err = strconv.ParseUint(fields[i], 10, 32)
			}
			if err != nil || len(fields) != len(n) {
				return 0, fmt.Errorf("mapping of ids %q: want CONTAINER:HOST:SIZE: %w", part, errdefs.ErrInvalidArgument)
			}
		}
		if uint64(id) >= n[0] && uint64(id) < n[0]+n[2] && n[1]+uint64(id)-n[0] < 1<<32-1 {
			return uint32(n[1] + uint64(id) - n[0]), nil
		}
	}
	return id, nil
}

// mapOwners has an overlay show its lower layers, and a bind mount all, with the owners that the labels say.
func mapOwners(m *mount.Mount, labels map[string]string) {
	for _, l := range []struct{ name, option string }{{LabelUIDMapping, "uidmap="}, {LabelGIDMapping, "gidmap="}} {
		if value := labels[l.name]; value != "" {
			m.Options = append(m.Options, l.option+value)
		}
	}
}

// mapsTree tells whether a bind mount of a tree can have other owners.
func mapsTree(d *state.Dir) bool { return mount.CanMap(d.Path()) }

// adoptTree is Adopt for a driver whose trees are whole: their root is the parent's already, and who mounts one sees its
// owners mapped, so that nothing of it changes.
func adoptTree(d *state.Dir, tree string, s Info) error {
	for _, text := range []string{s.Labels[LabelUIDMapping], s.Labels[LabelGIDMapping]} {
		if text == "" {
			continue
		}
		if _, err := mapID(text, 0); err != nil {
			return err
		}
		if !mapsTree(d) {
			return errNoMap
		}
	}
	_, err := os.Stat(tree)
	return err
}
