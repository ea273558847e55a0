// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// Read calls fn with the trees of a snapshot and of all that it stands on, the top first. Until fn returns, nothing
// removes them, and nobody mounts or commits an active snapshot; one that is mounted is a [*MountedError]. outer is the
// innermost lock that the caller holds, or nil. used, unless it is nil, may object.
func (sn *Snapshotter) Read(ctx context.Context, d *state.Dir, outer *lock.Lock, ns, key string, used func(*state.Tx, Info) error, fn func(layers []string) error) (err error) {
	l, err := lease.Take(d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	var s Info
	err = d.View(ctx, func(tx *state.Tx) error {
		s, err = sn.Get(tx, ns, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("read snapshot %q: %w", key, err)
	}
	if s.Kind == Active {
		var own *lock.Lock
		if s, own, err = sn.take(ctx, d, outer, ns, key); err != nil {
			return fmt.Errorf("read snapshot %q: %w", key, err)
		}
		defer func() { err = errors.Join(err, own.Release()) }()
		outer = own
	}
	if err := l.Hold(ctx, outer, lease.Snapshot, ns+"/"+key); err != nil {
		return err
	}
	var chain []Info
	err = d.View(ctx, func(tx *state.Tx) error {
		now, err := sn.Get(tx, ns, key)
		if err == nil && (now.ID != s.ID || now.Kind != s.Kind) {
			err = fmt.Errorf("snapshot %q has just been made anew: %w", key, errdefs.ErrAborted)
		}
		if err != nil {
			return err
		}
		if s.Kind == Active {
			if err := notMounted(sn.FS(d, s.ID), key); err != nil {
				return err
			}
		}
		if chain, err = sn.Chain(tx, ns, key); err != nil {
			return err
		}
		return ask(used, tx, now)
	})
	if err != nil {
		return err
	}
	trees, err := sn.Open(ctx, d, chain)
	if err != nil {
		return fmt.Errorf("read snapshot %q: %w", key, err)
	}
	defer func() { err = errors.Join(err, trees.Close()) }()
	return fn(trees.Dirs)
}

// ReadChange is Read with the trees of what the snapshot stands on, from, and its own, to: what is different between them
// is what was changed in the snapshot.
func (sn *Snapshotter) ReadChange(ctx context.Context, d *state.Dir, outer *lock.Lock, ns, key string, used func(*state.Tx, Info) error, fn func(from, to []string) error) error {
	var parent string
	look := func(tx *state.Tx, s Info) error {
		parent = s.Parent
		return ask(used, tx, s)
	}
	return sn.Read(ctx, d, outer, ns, key, look, func(to []string) error {
		if parent == "" {
			return fn(nil, to)
		}
		free := func(*state.Tx, Info) error { return nil }
		return sn.Read(ctx, d, outer, ns, parent, free, func(from []string) error { return fn(from, to) })
	})
}
