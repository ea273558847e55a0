// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/btrfs"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// subvolumes keeps whole trees, each in a subvolume of btrfs: one that stands on another begins as a snapshot of it, and
// shares what is the same. A committed one is read-only.
type subvolumes struct{}

func (subvolumes) Name() string { return "btrfs" }

func (subvolumes) Ready(d *state.Dir) error {
	ok, err := btrfs.On(d.Path())
	if err == nil && !ok {
		err = &NoBtrfsError{d.Path()}
	}
	return err
}

// Late is false: a snapshot is taken of what is there.
func (subvolumes) Late() bool { return false }

// parentFile is beside the tree of a snapshot: the id of what the tree was a snapshot of.
const parentFile = "parent"

func (v subvolumes) Stage(_ context.Context, d *state.Dir, id, parent ID) error {
	if err := v.stage(d, id, parent); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	crash.Point("snapshot.stage")
	if parent == "" {
		return wrapSnapshot(btrfs.Create(fsOf(v, d, id)))
	}
	return wrapSnapshot(btrfs.Snapshot(fsOf(v, d, parent), fsOf(v, d, id), false))
}

func wrapSnapshot(err error) error {
	if err != nil {
		err = fmt.Errorf("snapshot: %w", err)
	}
	return err
}

// stage makes the directory in which the tree is to be.
func (v subvolumes) stage(d *state.Dir, id, parent ID) error {
	if err := v.Ready(d); err != nil {
		return err
	}
	if err := os.MkdirAll(pathOf(v, d, id), 0o700); err != nil || parent == "" {
		return err
	}
	return os.WriteFile(pathOf(v, d, id, parentFile), []byte(parent), 0o600)
}

// NoBtrfsError says that a root is on another file system than the snapshotter btrfs needs. Its kind is
// errdefs.ErrFailedPrecondition.
type NoBtrfsError struct{ Root string }

// Error names the root.
func (e *NoBtrfsError) Error() string {
	return fmt.Sprintf("the snapshotter btrfs needs a root on btrfs, and %s is on another file system", e.Root)
}

// Unwrap gives the kind.
func (e *NoBtrfsError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *NoBtrfsError) Hint() string {
	return "--root a directory on btrfs, or --snapshotter overlayfs"
}

func (v subvolumes) Fix(_ context.Context, d *state.Dir, from, to ID) (Fixed, error) {
	if from == to {
		return Fixed{ID: to}, btrfs.Protect(fsOf(v, d, to), true)
	}
	parent, err := v.parent(d, from)
	if err == nil {
		err = v.stage(d, to, parent)
	}
	if err == nil {
		err = btrfs.Snapshot(fsOf(v, d, from), fsOf(v, d, to), true)
	}
	return Fixed{ID: to}, wrapSnapshot(err)
}

func (v subvolumes) parent(d *state.Dir, id ID) (ID, error) {
	text, err := os.ReadFile(pathOf(v, d, id, parentFile))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return ID(text), err
}

func (v subvolumes) Maps(d *state.Dir) bool { return mapsTree(d) }

func (v subvolumes) Adopt(d *state.Dir, s Info, _ ID) error { return adoptTree(d, fsOf(v, d, s.ID), s) }

// Mounts binds the tree. containerd's snapshotter mounts the device once more with the option subvolid, which is the same
// to whoever mounts it; a bind mount needs no device, and can be mapped.
func (v subvolumes) Mounts(_ context.Context, d *state.Dir, chain []Info, _ bool) ([]mount.Mount, error) {
	return bindTree(fsOf(v, d, chain[0].ID), chain[0]), nil
}

func (v subvolumes) Open(_ context.Context, d *state.Dir, chain []Info) (*Trees, error) {
	return &Trees{Dirs: []string{fsOf(v, d, chain[0].ID)}}, nil
}

// Check wants a subvolume: of a root that was copied, or of which a snapshot was taken, they are left behind.
func (v subvolumes) Check(d *state.Dir, s Info) error {
	f, err := os.Open(fsOf(v, d, s.ID))
	if err != nil {
		return err
	}
	defer f.Close()
	if !btrfs.IsSubvolume(f) {
		return fmt.Errorf("%s is no subvolume; was the root copied?: %w", f.Name(), errdefs.ErrDataLoss)
	}
	return nil
}

// Usage counts, as containerd's does, what is not the parent's: files that were made or changed.
func (v subvolumes) Usage(ctx context.Context, d *state.Dir, id ID) (size, inodes int64, err error) {
	parent, err := v.parent(d, id)
	if err != nil {
		return 0, 0, err
	}
	if parent == "" {
		return layer.Usage(ctx, fsOf(v, d, id))
	}
	return layer.UsageBeside(ctx, fsOf(v, d, id), fsOf(v, d, parent))
}

// Sync of a fresh tree is of its names: the kernel has committed the subvolume.
func (v subvolumes) Sync(d *state.Dir, id ID, fresh bool) error {
	if !fresh {
		return syncFS(fsOf(v, d, id))
	}
	return syncNames(v, d, id, fsOf(v, d, id))
}

func (v subvolumes) Drop(d *state.Dir, id ID) error { return d.Trash(pathOf(v, d, id)) }
