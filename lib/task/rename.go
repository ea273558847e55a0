// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// Rename gives a container that does not run another id, and its snapshot with it. One that runs is
// errdefs.ErrFailedPrecondition: its supervisor, its cgroup and its hostname have the id. So is one
// that waits for its next restart, which its supervisor would not find. An id that is taken is errdefs.ErrAlreadyExists,
// and one at which another command is a [*lock.BusyError].
func (t *Task) Rename(ctx context.Context, id string) error {
	err := t.rename(ctx, id)
	t.d.EmptyTrash()
	if err != nil {
		return fmt.Errorf("rename container %q: %w", t.ID(), err)
	}
	return nil
}

// reserveID takes the lock of the id that the container is to have, so that nobody makes a container of that id in the other
// database. It is not waited for: whoever has it may wait for the lock that is held already.
func (t *Task) reserveID(ctx context.Context, id string) (*lock.Lock, error) {
	now := t.d.Locks()
	now.Wait = 0
	return now.Acquire(ctx, nil, lock.Container, t.Namespace+"/"+id, lock.Exclusive)
}

func (t *Task) rename(ctx context.Context, id string) (err error) {
	if err := container.CheckID(id); err != nil {
		return err
	}
	if err := t.awaitSupervisor(ctx, false); err != nil {
		return err
	}
	l, err := t.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	other, err := t.reserveID(ctx, id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, other.Release()) }()
	if err := t.atRest(ctx); err != nil {
		return err
	}
	err = t.commit(ctx, l, func(tx *state.Tx) error {
		own, err := cgroupsPath(t.d, t.Namespace, t.Container)
		if err != nil {
			return err
		}
		renamed := t.Container
		renamed.ID = id
		next, err := cgroupsPath(t.d, t.Namespace, renamed)
		if err != nil {
			return err
		}
		c, err := container.Rename(tx, t.Namespace, t.ID(), id, func(c *container.Container, s *specs.Spec) {
			if s.Linux != nil && s.Linux.CgroupsPath == own {
				s.Linux.CgroupsPath = next
			}
			if c.SnapshotKey == t.ID() {
				c.SnapshotKey = id
			}
		})
		if err != nil || c.SnapshotKey == t.Container.SnapshotKey {
			return err
		}
		sn, err := t.snapshots()
		if err != nil {
			return err
		}
		return sn.Rename(tx, t.Namespace, t.Container.SnapshotKey, c.SnapshotKey)
	})
	if err != nil {
		return err
	}
	crash.Point("task.renamed")
	// The exit of its last task goes with it, unless the new name has been started already.
	old := t.base()
	bundle, err := t.unlinkBundle()
	if err != nil {
		return err
	}
	t.Container.ID = id
	if err := os.Rename(old, t.base()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return t.d.Trash(old)
	}
	if bundle != "" {
		return t.linkBundle(bundle)
	}
	return nil
}
