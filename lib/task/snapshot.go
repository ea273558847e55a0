// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// snapshots is the snapshotter of the container. One that this program does not know is errdefs.ErrInvalidArgument.
func (t *Task) snapshots() (*snapshot.Snapshotter, error) {
	return snapshot.Named(t.Container.Snapshotter)
}

// notMounted is a [*snapshot.MountedError] when the container's snapshot is mounted in this mount namespace.
func (t *Task) notMounted(ctx context.Context) error {
	sn, err := t.snapshots()
	if err != nil {
		return nil // the snapshot is none of ours
	}
	return sn.NotMounted(ctx, t.d, t.Namespace, t.Container.SnapshotKey)
}

// atRest wants that the container does not run and that its snapshot is not mounted in this mount namespace. The caller holds the
// container's lock.
func (t *Task) atRest(ctx context.Context) error {
	now, err := t.present()
	if err != nil {
		return err
	}
	v, err := now.settle()
	if err != nil {
		return err
	}
	if v.InUse() {
		return &RunningError{ID: t.ID()}
	}
	return t.notMounted(ctx)
}

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
func MountSnapshot(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns, key, target string) (err error) {
	l, release, err := lockRoot(ctx, d, sn, ns, key)
	if err != nil {
		return fmt.Errorf("mount snapshot %q: %w", key, err)
	}
	defer func() { err = errors.Join(err, release()) }()
	return sn.Mount(ctx, d, l, ns, key, target, func(tx *state.Tx, s snapshot.Info) error {
		return notUsed(tx, d, sn, ns, s, true)
	})
}

// ReadSnapshot calls fn with the trees of a snapshot, see [snapshot.Read]. An active one that a container uses is a
// [*UsedError]; its container does not start before fn returns.
func ReadSnapshot(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns, key string, fn func(layers []string) error) (err error) {
	l, release, err := lockRoot(ctx, d, sn, ns, key)
	if err != nil {
		return fmt.Errorf("read snapshot %q: %w", key, err)
	}
	defer func() { err = errors.Join(err, release()) }()
	return sn.Read(ctx, d, l, ns, key, func(tx *state.Tx, s snapshot.Info) error {
		return notUsed(tx, d, sn, ns, s, false)
	}, fn)
}

// ReadChange is ReadSnapshot with the trees of what the snapshot stands on, see [snapshot.Snapshotter.ReadChange].
func ReadChange(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns, key string, fn func(from, to []string) error) (err error) {
	l, release, err := lockRoot(ctx, d, sn, ns, key)
	if err != nil {
		return fmt.Errorf("read snapshot %q: %w", key, err)
	}
	defer func() { err = errors.Join(err, release()) }()
	return sn.ReadChange(ctx, d, l, ns, key, func(tx *state.Tx, s snapshot.Info) error {
		return notUsed(tx, d, sn, ns, s, false)
	}, fn)
}

// Still calls fn with the trees that the container stands on and with its own, see [ReadChange], while nobody writes to them: one that
// does not run is not started meanwhile, one that runs is paused if pause says so.
func (t *Task) Still(ctx context.Context, pause bool, fn func(from, to []string) error) (err error) {
	info, err := t.Info(ctx)
	if err != nil {
		return err
	}
	key := t.Container.SnapshotKey
	sn, err := t.snapshots()
	if err != nil {
		return err
	}
	switch info.Status {
	case Running, Paused:
	default:
		return ReadChange(ctx, t.d, sn, t.Namespace, key, fn)
	}
	if info.Status == Running && pause {
		if err := t.Pause(ctx); err != nil {
			return err
		}
		crash.Point("task.still")
		defer func() {
			rerr := t.Resume(context.WithoutCancel(ctx))
			if v, lerr := taskdir.Look(t.Dir()); lerr == nil && v.State != taskdir.Running {
				rerr = nil // it has ended meanwhile, and there is nothing to resume
			}
			err = errors.Join(err, rerr)
		}()
	}
	none := func(*state.Tx, snapshot.Info) error { return nil }
	return sn.ReadChange(ctx, t.d, nil, t.Namespace, key, none, fn)
}

// lockRoot takes the lock of the container whose root is the snapshot; without one the lock is nil.
func lockRoot(ctx context.Context, d *state.Dir, sn *snapshot.Snapshotter, ns, key string) (l *lock.Lock, release func() error, err error) {
	var owner *Task
	err = d.View(ctx, func(tx *state.Tx) error {
		return rootOf(tx, sn, ns, key, func(c container.Container) error {
			owner = &Task{Container: c, Namespace: ns, d: d}
			return nil
		})
	})
	if err != nil || owner == nil {
		return nil, func() error { return nil }, err
	}
	if err := owner.awaitRest(ctx); err != nil {
		return nil, nil, err
	}
	if l, err = d.Lock(ctx, nil, lock.Container, ns+"/"+owner.ID(), lock.Exclusive); err != nil {
		return nil, nil, err
	}
	return l, l.Release, nil
}

// restWithin bounds the wait for a supervisor to let go of a task that has ended.
const restWithin = time.Second

// awaitRest waits for a moment for the supervisor of a task that has ended to let go of it: its end is told before that.
func (t *Task) awaitRest(ctx context.Context) error {
	if err := t.refresh(); err != nil {
		return err
	}
	for waited := time.Duration(0); waited < restWithin; waited += pollEvery {
		v, err := taskdir.Look(t.Dir())
		if err != nil || v.State != taskdir.Stopped || !v.Supervised || v.Restarting {
			return err
		}
		if err := pause(ctx, pollEvery); err != nil {
			return err
		}
	}
	return nil
}

// notUsed is a [*UsedError] for an active snapshot that is the root of a container with a task, or with transient of any
// transient container.
func notUsed(tx *state.Tx, d *state.Dir, sn *snapshot.Snapshotter, ns string, s snapshot.Info, transient bool) error {
	return rootOf(tx, sn, ns, s.Key, func(c container.Container) error {
		if s.Kind != snapshot.Active {
			return nil
		}
		if c.Transient && transient {
			return &UsedError{s.Key, c.ID, true}
		}
		t := &Task{Container: c, Namespace: ns, d: d}
		if err := t.refresh(); err != nil {
			return err
		}
		v, err := taskdir.Look(t.Dir())
		if err == nil && v.InUse() {
			err = &UsedError{s.Key, c.ID, false}
		}
		return err
	})
}

// rootOf calls do for each container whose root is the snapshot.
func rootOf(tx *state.Tx, sn *snapshot.Snapshotter, ns, key string, do func(container.Container) error) error {
	for c, err := range container.All(tx, ns) {
		if err == nil && c.SnapshotKey == key && sn.Has(c.Snapshotter) {
			err = do(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
