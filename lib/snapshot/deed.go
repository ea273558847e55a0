// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// Create makes a durable snapshot in one go: directory, then record. Of s the key, the kind (Active or
// View), the parent and the labels count. No collection takes the parent in between.
func Create(ctx context.Context, d *state.Dir, ns string, s Info) (made Info, err error) {
	l, err := lease.Take(d)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	s.ID = NewID()
	hold := []string{string(s.ID)}
	if s.Parent != "" {
		hold = append(hold, ns+"/"+s.Parent)
	}
	if err := l.Hold(ctx, nil, lease.Snapshot, hold...); err != nil {
		return s, err
	}
	if err := Stage(d, s.ID); err != nil {
		return s, err
	}
	for _, dir := range []string{FS(d, s.ID), Path(d, s.ID), filepath.Dir(Path(d, s.ID))} {
		if err := state.SyncDir(dir); err != nil {
			return s, errors.Join(fmt.Errorf("snapshot: %w", err), Drop(d, s.ID))
		}
	}
	crash.Point("snapshot.staged")
	add := Prepare
	if s.Kind == View {
		add = Look
	}
	err = d.Update(ctx, nil, func(tx *state.Tx) (err error) {
		made, err = add(tx, ns, s.Key, s.Parent, s.ID, s.Labels)
		return err
	})
	crash.Point("snapshot.created")
	if err != nil {
		return s, errors.Join(err, Drop(d, s.ID))
	}
	return made, nil
}

// Seal commits the active snapshot key under name: what is in it is measured and made durable, then the
// record changes. Whoever still has it mounted can go on writing into it; that is the caller's care. used
// may object to the change.
func Seal(ctx context.Context, d *state.Dir, ns, name, key string, o CommitOptions, used func(*state.Tx, Info) error) (s Info, err error) {
	l, err := lease.Take(d)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	hold := []string{ns + "/" + name}
	if o.Parent != "" {
		hold = append(hold, ns+"/"+o.Parent)
	}
	if err := l.Hold(ctx, nil, lease.Snapshot, hold...); err != nil {
		return s, err
	}
	err = d.View(ctx, func(tx *state.Tx) (err error) {
		if s, err = Get(tx, ns, key); err != nil {
			return err
		}
		transient, err := Transient(tx, ns, key)
		if err == nil && transient {
			err = fmt.Errorf("commit of snapshot %q: it ends with this boot: %w", key, errdefs.ErrFailedPrecondition)
		}
		return err
	})
	if err != nil {
		return s, err
	}
	if o.Size, o.Inodes, err = Usage(ctx, d, s.ID); err != nil {
		return s, err
	}
	if err := Sync(d, s.ID); err != nil {
		return s, err
	}
	crash.Point("snapshot.synced")
	err = d.Update(ctx, nil, func(tx *state.Tx) error {
		if err := used(tx, s); err != nil {
			return err
		}
		if now, err := Get(tx, ns, key); err == nil && now.ID != s.ID {
			return fmt.Errorf("commit of snapshot %q: it has just been made anew: %w", key, errdefs.ErrAborted)
		}
		s, err = Commit(tx, ns, name, key, o)
		return err
	})
	crash.Point("snapshot.sealed")
	return s, err
}

// Mount mounts an active snapshot or a view at target, a directory that exists. What is mounted is known by
// [mount.At] as the snapshot's own tree. An active snapshot that is mounted is errdefs.ErrFailedPrecondition:
// the kernel does not keep two overlays of one tree apart. used may object.
func Mount(ctx context.Context, d *state.Dir, ns, key, target string, used func(*state.Tx, Info) error) (err error) {
	// Nobody deletes it, or mounts it too, between the look and the mount.
	l, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		return fmt.Errorf("mount snapshot %q: %w", key, err)
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	var m []mount.Mount
	err = d.View(ctx, func(tx *state.Tx) error {
		if m, err = Mounts(tx, d, ns, key); err != nil {
			return err
		}
		s, err := Get(tx, ns, key)
		if err != nil {
			return err
		}
		own := FS(d, s.ID)
		if s.Kind == View {
			// A bind mount of the parent would not tell whose it is.
			if layers, err := Layers(tx, d, ns, key); err != nil {
				return err
			} else if len(layers) == 2 {
				m = overlayOf(layers[1], own)
			}
			if m[0].Type == "overlay" {
				m[0].Source = own
			}
			return used(tx, s)
		}
		if err := notMounted(own, key); err != nil {
			return err
		}
		return used(tx, s)
	})
	if err != nil {
		return err
	}
	return mount.All(m, target)
}

// MountedError says that a snapshot is mounted. Its kind is errdefs.ErrFailedPrecondition.
type MountedError struct{ Key, At string }

// Error names the snapshot and the place.
func (e *MountedError) Error() string { return fmt.Sprintf("snapshot %q: mounted at %s", e.Key, e.At) }

// Unwrap gives the kind.
func (e *MountedError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *MountedError) Hint() string { return "ctr-snap unmount " + e.At }

func notMounted(fs, key string) error {
	at, err := mount.At(fs)
	if err == nil && len(at) > 0 {
		err = &MountedError{key, at[0]}
	}
	return err
}

// NotMounted is a [*MountedError] when the snapshot is mounted in this mount namespace. One that is not
// there is not mounted.
func NotMounted(ctx context.Context, d *state.Dir, ns, key string) error {
	return d.View(ctx, func(tx *state.Tx) error {
		s, err := Get(tx, ns, key)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return notMounted(FS(d, s.ID), key)
	})
}

// Delete removes a snapshot and moves its directory to the trash. One that is mounted, that others stand
// on or that unfinished work needs is errdefs.ErrFailedPrecondition. used may object to the removal.
func Delete(ctx context.Context, d *state.Dir, ns, key string, used func(*state.Tx, Info) error) (err error) {
	// As a collection does it, so that no lease is taken meanwhile.
	l, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		return fmt.Errorf("snapshot %q: %w", key, err)
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	held, err := lease.Live(d)
	if err != nil {
		return err
	}
	update := d.Update
	err = d.View(ctx, func(tx *state.Tx) error {
		s, err := Get(tx, ns, key)
		if err != nil {
			return err
		}
		if held.Has(lease.Snapshot, string(s.ID)) || held.Has(lease.Snapshot, ns+"/"+key) {
			return fmt.Errorf("snapshot %q: unfinished work of another process needs it: %w", key, errdefs.ErrFailedPrecondition)
		}
		if err := notMounted(FS(d, s.ID), key); err != nil {
			return err
		}
		transient, err := Transient(tx, ns, key)
		if transient {
			update = d.UpdateRun
		}
		return err
	})
	if err != nil {
		return err
	}
	var ids []ID
	err = update(ctx, l, func(tx *state.Tx) error {
		s, err := Get(tx, ns, key)
		if err != nil {
			return err
		}
		if err := used(tx, s); err != nil {
			return err
		}
		ids, err = Remove(tx, ns, key)
		return err
	})
	if err != nil {
		return err
	}
	crash.Point("snapshot.removed")
	for _, id := range ids {
		if err := Drop(d, id); err != nil {
			return err
		}
	}
	return nil
}
