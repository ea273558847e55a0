// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Record records a container that a client of the API has put together: its spec, and a snapshot that the client has
// made. hold joins the same commit. It is durable when Record returns.
func Record(ctx context.Context, d *state.Dir, ns string, c container.Container, spec []byte, hold func(*state.Tx) error) (made container.Container, err error) {
	l, err := d.Lock(ctx, nil, lock.Container, ns+"/"+c.ID, lock.Exclusive)
	if err != nil {
		return c, fmt.Errorf("create container %q: %w", c.ID, err)
	}
	err = d.Update(ctx, l, func(tx *state.Tx) error {
		if made, err = container.CreateRaw(tx, ns, c, spec); err != nil {
			return err
		}
		return hold(tx)
	})
	return made, errors.Join(err, l.Release())
}

// Forget removes the container's record, its log and its volumes, and leaves its snapshot to whoever has made it. A
// container that has a task is errdefs.ErrFailedPrecondition.
func (t *Task) Forget(ctx context.Context) error {
	l, err := t.lock(ctx)
	if err != nil {
		return err
	}
	err = func() error {
		now, err := t.present()
		if err != nil {
			return err
		}
		v, err := now.settle()
		if err != nil {
			return err
		}
		if v.InUse() || v.State == taskdir.Stopped {
			return fmt.Errorf("container %q has a task; delete that first: %w", t.ID(), errdefs.ErrFailedPrecondition)
		}
		return now.removeFiles(ctx, l)
	}()
	t.d.EmptyTrash()
	return errors.Join(err, l.Release())
}

func (t *Task) removeFiles(ctx context.Context, l *lock.Lock) error {
	err := t.commit(ctx, l, func(tx *state.Tx) error { return container.Remove(tx, t.Namespace, t.ID()) })
	if err != nil {
		return err
	}
	return errors.Join(t.trashTasks(), t.d.Trash(t.d.Path("containers", t.Namespace, t.Container.Files())))
}
