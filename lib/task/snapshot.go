// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// UsedError says that a container uses its snapshot. Its kind is errdefs.ErrFailedPrecondition.
type UsedError struct {
	Key, ID   string
	Transient bool // it may also be a container that is about to start
}

// Error names the snapshot and the container.
func (e *UsedError) Error() string {
	if e.Transient {
		return fmt.Sprintf("snapshot %q: it is the root of container %q, which goes when it has run", e.Key, e.ID)
	}
	return fmt.Sprintf("snapshot %q: container %q runs on it", e.Key, e.ID)
}

// Unwrap gives the kind.
func (e *UsedError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names what can be done instead.
func (e *UsedError) Hint() string { return fmt.Sprintf("ctr-task exec %s sh looks into it", e.ID) }

// MountSnapshot mounts an active snapshot or a view at a directory, see [snapshot.Mount]. An active snapshot that a
// container uses is a [*UsedError]. A start and a mount of one snapshot exclude each other: both look, and begin, under
// the lock of the container. The snapshot of a transient container is never mounted, so that a start of one need not look.
func MountSnapshot(ctx context.Context, d *state.Dir, ns, key, target string) (err error) {
	var owner string
	err = d.View(ctx, func(tx *state.Tx) error {
		return rootOf(tx, ns, key, func(c container.Container) error {
			owner = c.ID
			return nil
		})
	})
	if err != nil {
		return err
	}
	var l *lock.Lock
	if owner != "" {
		if l, err = d.Lock(ctx, nil, lock.Container, ns+"/"+owner, lock.Exclusive); err != nil {
			return fmt.Errorf("mount snapshot %q: %w", key, err)
		}
		defer func() { err = errors.Join(err, l.Release()) }()
	}
	return snapshot.Mount(ctx, d, l, ns, key, target, func(tx *state.Tx, s snapshot.Info) error {
		return rootOf(tx, ns, key, func(c container.Container) error {
			if s.Kind != snapshot.Active {
				return nil
			}
			if c.Transient {
				return &UsedError{key, c.ID, true}
			}
			t := &Task{Container: c, Namespace: ns, d: d}
			if err := t.refresh(); err != nil {
				return err
			}
			v, err := taskdir.Look(t.Dir())
			if err == nil && v.InUse() {
				err = &UsedError{key, c.ID, false}
			}
			return err
		})
	})
}

// rootOf calls do for each container whose root is the snapshot.
func rootOf(tx *state.Tx, ns, key string, do func(container.Container) error) error {
	for c, err := range container.All(tx, ns) {
		if err == nil && c.SnapshotKey == key {
			err = do(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
