// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// labelMounted is on a snapshot that MountImage made: the image's name.
const labelMounted = "ctrd.image-mount"

// MountImage mounts the files of an image at a directory: read-only, or with write on top of a place for changes, which
// go with the mount. The snapshot under it is named after the directory, as those of containerd's clients are. An image
// that is not unpacked is errdefs.ErrNotFound. driver is the snapshotter whose layers are mounted; empty: the first that has them.
func MountImage(ctx context.Context, d *state.Dir, ns, name string, m image.Manifest, target, driver string, write bool) error {
	key, err := filepath.Abs(target)
	if err != nil {
		return err
	}
	s := snapshot.Info{Key: key, Kind: snapshot.View, Labels: map[string]string{labelMounted: name}}
	if write {
		s.Kind = snapshot.Active
	}
	if n := len(m.ChainIDs); n > 0 {
		s.Parent = m.ChainIDs[n-1].String()
	}
	var sn *snapshot.Snapshotter
	if driver != "" {
		sn, err = unpackedFor(ctx, d, driver, ns, s.Parent)
	} else {
		sn, err = having(ctx, d, ns, s.Parent)
	}
	if err == nil {
		err = mountNew(ctx, d, sn, ns, s, target)
	}
	if err != nil {
		return fmt.Errorf("mount image %s: %w", image.Familiar(name), err)
	}
	return nil
}

// unpackedFor gives the snapshotter of a name, which has a snapshot.
func unpackedFor(ctx context.Context, d *state.Dir, driver, ns, key string) (*snapshot.Snapshotter, error) {
	sn, err := snapshot.Named(driver)
	if err != nil || key == "" {
		return sn, err
	}
	err = d.View(ctx, func(tx *state.Tx) error {
		_, err := sn.Get(tx, ns, key)
		return err
	})
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("it is not unpacked for the snapshotter %s; ctr-pull --snapshotter %s does that: %w", driver, driver, errdefs.ErrNotFound)
	}
	return sn, err
}

// having gives the first snapshotter that has a snapshot, or the default when none has.
func having(ctx context.Context, d *state.Dir, ns, key string) (found *snapshot.Snapshotter, err error) {
	found = snapshot.Overlay
	err = d.View(ctx, func(tx *state.Tx) error {
		for _, sn := range snapshot.Snapshotters() {
			_, err := sn.Get(tx, ns, key)
			if errdefs.IsNotFound(err) {
				continue
			}
			found = sn
			return err
		}
		return nil
	})
	return found, err
}

func mountNew(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns string, s snapshot.Info, target string) error {
	if _, err := sn.Create(ctx, d, ns, s); err != nil {
		return err
	}
	crash.Point("task.image-viewed")
	err := MountSnapshot(ctx, d, sn, ns, s.Key, target)
	if err != nil {
		err = errors.Join(err, deleteMounted(context.WithoutCancel(ctx), d, sn, ns, s.Key))
	}
	return err
}

// UnmountImage undoes MountImage, also where only a part of it was done before a process was killed, or the mount went
// with a reboot. flags are those of umount2(2). Where no image was mounted it is errdefs.ErrNotFound.
func UnmountImage(ctx context.Context, d *state.Dir, ns, target string, flags int) error {
	key, err := filepath.Abs(target)
	if err != nil {
		return err
	}
	sn, err := having(ctx, d, ns, key)
	if err != nil {
		return err
	}
	var s snapshot.Info
	err = d.View(ctx, func(tx *state.Tx) error {
		s, err = sn.Get(tx, ns, key)
		return err
	})
	if err == nil && s.Labels[labelMounted] == "" {
		err = errdefs.ErrNotFound
	}
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("unmount %s: no image is mounted there in namespace %q: %w", target, ns, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	at, err := mount.At(sn.FS(d, s.ID))
	if err != nil {
		return err
	}
	if len(at) > 0 {
		if _, err := mount.UnmountTop(target, flags); err != nil {
			return err
		}
	}
	crash.Point("task.image-unmounted")
	return deleteMounted(ctx, d, sn, ns, key)
}

func deleteMounted(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns, key string) error {
	return sn.Delete(ctx, d, ns, key, func(*state.Tx, snapshot.Info) error { return nil })
}
