// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// Create makes a durable snapshot in one go: directory, then record. Of s the key, the kind (Active or
// View), the parent and the labels count. No collection takes the parent in between. The caller holds no lock. What else
// is to be in the same commit may be given.
func (sn *Snapshotter) Create(ctx context.Context, d *state.Dir, ns string, s Info, also ...func(*state.Tx) error) (made Info, err error) {
	// One that is there is told without a wait for those who remove others.
	if err := d.View(ctx, func(tx *state.Tx) error { return sn.free(tx, ns, s.Key) }); err != nil {
		return s, err
	}
	defer d.EmptyTrash() // of one that fails
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
	var parent Info
	err = d.View(ctx, func(tx *state.Tx) (err error) {
		if err := sn.free(tx, ns, s.Key); err != nil {
			return err
		}
		parent, err = sn.committed(tx, ns, s.Key, s.Parent)
		return err
	})
	if err != nil {
		return s, err
	}
	stage := sn.Stage
	if v, ok := sn.Driver.(viewer); ok && s.Kind == View {
		stage = v.StageView
	}
	err = stage(ctx, d, s.ID, parent.ID)
	if err == nil {
		err = sn.Sync(d, s.ID, true)
	}
	if err != nil {
		return s, errors.Join(fmt.Errorf("snapshot %q: %w", s.Key, err), sn.Drop(d, s.ID))
	}
	crash.Point("snapshot.staged")
	record := sn.Prepare
	if s.Kind == View {
		record = sn.Look
	}
	err = d.Update(ctx, nil, func(tx *state.Tx) (err error) {
		if made, err = record(tx, ns, s.Key, s.Parent, s.ID, s.Labels); err != nil {
			return err
		}
		if made.Client = s.Client; s.Client {
			if err := sn.records().Put(tx, ns, s.Key, made); err != nil {
				return err
			}
		}
		for _, fn := range also {
			if err := fn(tx); err != nil {
				return err
			}
		}
		return nil
	})
	crash.Point("snapshot.created")
	if err != nil {
		return s, errors.Join(err, sn.Drop(d, s.ID))
	}
	return made, nil
}

// Seal commits the active snapshot key under name: what is in it is made what is committed, durable, and measured, then
// the record changes. Nobody mounts it meanwhile; one that is mounted already is a [*MountedError], unless
// o.Mounted says that nobody writes there. used, unless it is nil, may object to the change.
func (sn *Snapshotter) Seal(ctx context.Context, d *state.Dir, ns, name, key string, o CommitOptions, used func(*state.Tx, Info) error) (s Info, err error) {
	defer d.EmptyTrash()
	l, err := lease.Take(d)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	s, own, err := sn.take(ctx, d, nil, ns, key)
	if err != nil {
		return s, fmt.Errorf("commit of snapshot %q: %w", key, err)
	}
	defer func() { err = errors.Join(err, own.Release()) }()
	was := s.ID
	o.ID = NewID()
	hold := []string{ns + "/" + name, string(was), string(o.ID)}
	if o.Parent != "" {
		hold = append(hold, ns+"/"+o.Parent)
	}
	if err := l.Hold(ctx, own, lease.Snapshot, hold...); err != nil {
		return s, err
	}
	if err := d.View(ctx, func(tx *state.Tx) error { return sn.sealable(tx, ns, s, o) }); err != nil {
		return s, fmt.Errorf("commit of %w", err)
	}
	fixed, err := sn.Fix(ctx, d, was, o.ID)
	o.Verity = fixed.Verity
	if o.ID = cmp.Or(fixed.ID, o.ID); err == nil {
		crash.Point("snapshot.fixed")
		err = sn.Sync(d, o.ID, false)
	}
	if err == nil {
		o.Size, o.Inodes, err = sn.Usage(ctx, d, o.ID)
	}
	unused := o.ID // what no record names in the end
	defer func() {
		if unused != was || err == nil && o.ID != was {
			err = errors.Join(err, sn.Drop(d, unused))
		}
	}()
	if err != nil {
		return s, err
	}
	crash.Point("snapshot.synced")
	err = d.Update(ctx, own, func(tx *state.Tx) error {
		if err := ask(used, tx, s); err != nil {
			return err
		}
		if now, err := sn.Get(tx, ns, key); err == nil && now.ID != s.ID {
			return fmt.Errorf("commit of snapshot %q: it has just been made anew: %w", key, errdefs.ErrAborted)
		}
		s, err = sn.Commit(tx, ns, name, key, o)
		return err
	})
	crash.Point("snapshot.sealed")
	if err == nil {
		unused = was
	}
	return s, err
}

// ask lets a user of a snapshot object; nil does not.
func ask(used func(*state.Tx, Info) error, tx *state.Tx, s Info) error {
	if used == nil {
		return nil
	}
	return used(tx, s)
}

// sealable tells why a snapshot cannot be committed now. What outlives the boot is no part of what does not.
func (sn *Snapshotter) sealable(tx *state.Tx, ns string, s Info, o CommitOptions) error {
	transient, err := sn.Transient(tx, ns, s.Key)
	switch {
	case err != nil:
		return err
	case transient:
		return fmt.Errorf("snapshot %q: it ends with this boot: %w", s.Key, errdefs.ErrFailedPrecondition)
	case o.Mounted || s.Kind != Active:
		return nil
	}
	return notMounted(sn.FS(tx.Dir(), s.ID), s.Key)
}

// take gives a snapshot and its lock. outer is the innermost lock that the caller holds, or nil.
func (sn *Snapshotter) take(ctx context.Context, d *state.Dir, outer *lock.Lock, ns, key string) (s Info, l *lock.Lock, err error) {
	look := func(tx *state.Tx) error {
		s, err = sn.Get(tx, ns, key)
		return err
	}
	if err := d.View(ctx, look); err != nil {
		return s, nil, err
	}
	was := s.ID
	if l, err = d.Lock(ctx, outer, lock.Snapshot, string(was), lock.Exclusive); err != nil {
		return s, nil, err
	}
	err = d.View(ctx, look)
	if err == nil && s.ID != was {
		err = fmt.Errorf("snapshot %q has just been made anew: %w", key, errdefs.ErrAborted)
	}
	if err != nil {
		return s, nil, errors.Join(err, l.Release())
	}
	return s, l, nil
}

// Mount mounts an active snapshot or a view at target, a directory that exists. What is mounted is known by
// [mount.At] as the snapshot's own tree. An active snapshot that is mounted is a [*MountedError]: the kernel
// does not keep two overlays of one tree apart. outer is the innermost lock that the caller holds, or nil.
//
// used, unless it is nil, may object. It is asked before the mount and again after it, which is then undone: who first says that he
// uses a snapshot, and then looks whether it is mounted ([NotMounted]), is seen by one of the two.
func (sn *Snapshotter) Mount(ctx context.Context, d *state.Dir, outer *lock.Lock, ns, key, target string, used func(*state.Tx, Info) error) (err error) {
	s, own, err := sn.take(ctx, d, outer, ns, key) // nobody commits it
	if err != nil {
		return fmt.Errorf("mount snapshot %q: %w", key, err)
	}
	defer func() { err = errors.Join(err, own.Release()) }()
	// Nobody deletes it between the look and the mount.
	l, err := d.Lock(ctx, own, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		return fmt.Errorf("mount snapshot %q: %w", key, err)
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	var m []mount.Mount
	err = d.View(ctx, func(tx *state.Tx) error {
		if m, err = sn.mounts(ctx, tx, d, ns, key, true); err != nil {
			return err
		}
		if s.Kind == Active {
			if err := notMounted(sn.FS(d, s.ID), key); err != nil {
				return err
			}
		}
		return ask(used, tx, s)
	})
	if err != nil {
		return err
	}
	if err := mount.All(m, target); err != nil {
		return err
	}
	if err := d.View(ctx, func(tx *state.Tx) error { return ask(used, tx, s) }); err != nil {
		_, uerr := mount.UnmountTop(target, unix.MNT_DETACH)
		return errors.Join(err, uerr)
	}
	return nil
}

// MountedError says that a snapshot is mounted. Its kind is errdefs.ErrFailedPrecondition.
type MountedError struct{ Key, At string }

// Error names the snapshot and the place.
func (e *MountedError) Error() string { return fmt.Sprintf("snapshot %q: mounted at %s", e.Key, e.At) }

// Unwrap gives the kind.
func (e *MountedError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *MountedError) Hint() string { return "ctr-snap unmount " + e.At }

// From tells whether the topmost mount at target is of a snapshot, of whichever snapshotter.
func From(d *state.Dir, target string) (bool, error) {
	if ours, err := mount.From(target, d.Path("snapshots")); ours || err != nil {
		return ours, err
	}
	for _, sn := range Snapshotters() {
		if _, elsewhere := sn.Driver.(*proxy); !elsewhere {
			continue
		}
		for id, err := range sn.Dirs(d) {
			if err != nil {
				return false, err
			}
			tree, err := filepath.EvalSymlinks(sn.FS(d, id))
			if err != nil {
				continue // a server that has lost it
			}
			if ours, err := mount.From(target, tree); ours || err != nil {
				return ours, err
			}
		}
	}
	return false, nil
}

func notMounted(fs, key string) error {
	at, err := mount.At(fs)
	if err == nil && len(at) > 0 {
		err = &MountedError{key, at[0]}
	}
	return err
}

// NotMounted is a [*MountedError] when the snapshot is mounted in this mount namespace. One that is not
// there is not mounted.
func (sn *Snapshotter) NotMounted(ctx context.Context, d *state.Dir, ns, key string) error {
	return d.View(ctx, func(tx *state.Tx) error {
		s, err := sn.Get(tx, ns, key)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return notMounted(sn.FS(d, s.ID), key)
	})
}

// Delete removes a snapshot with its directory. The caller holds no lock. One that is mounted, that others stand
// on or that unfinished work needs is errdefs.ErrFailedPrecondition. used, unless it is nil, may object to the
// removal.
func (sn *Snapshotter) Delete(ctx context.Context, d *state.Dir, ns, key string, used func(*state.Tx, Info) error) (err error) {
	// One that is not there is told without a wait for those who remove others.
	err = d.View(ctx, func(tx *state.Tx) error {
		_, err := sn.Get(tx, ns, key)
		return err
	})
	if err != nil {
		return err
	}
	defer d.EmptyTrash()
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
		s, err := sn.Get(tx, ns, key)
		if err != nil {
			return err
		}
		if held.Has(lease.Snapshot, string(s.ID)) || held.Has(lease.Snapshot, ns+"/"+key) {
			return fmt.Errorf("snapshot %q: unfinished work of another process needs it: %w", key, errdefs.ErrFailedPrecondition)
		}
		if err := notMounted(sn.FS(d, s.ID), key); err != nil {
			return err
		}
		transient, err := sn.Transient(tx, ns, key)
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
		s, err := sn.Get(tx, ns, key)
		if err != nil {
			return err
		}
		if err := ask(used, tx, s); err != nil {
			return err
		}
		ids, err = sn.Remove(tx, ns, key)
		return err
	})
	if err != nil {
		return err
	}
	crash.Point("snapshot.removed")
	for _, id := range ids {
		if err := sn.Drop(d, id); err != nil {
			return err
		}
	}
	return nil
}
