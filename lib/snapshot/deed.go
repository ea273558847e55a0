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
		if at, err := mount.At(FS(d, s.ID)); err != nil {
			return err
		} else if len(at) > 0 {
			return fmt.Errorf("snapshot %q: mounted at %s: %w", key, at[0], errdefs.ErrFailedPrecondition)
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
