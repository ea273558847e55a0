// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// removeAgain bounds how often a forced removal ends a task that others have started since it ended the one before.
const removeAgain = 10

// Remove removes the container with its task, snapshot and log. One that runs is errdefs.ErrFailedPrecondition
// unless force, which ends it first; so is one that waits for its next restart, and one whose snapshot somebody has mounted. One that has been removed
// meanwhile is errdefs.ErrNotFound.
func (t *Task) Remove(ctx context.Context, force bool) error {
	last := t.lastSupervisor()
	err := t.remove(ctx, force, false)
	for again := 0; force && again < removeAgain; again++ {
		if _, running := errors.AsType[*RunningError](err); !running || t.refresh() != nil {
			break
		}
		last = t.lastSupervisor()
		err = t.remove(ctx, force, false)
	}
	t.clearAfter(last)
	if err != nil {
		return fmt.Errorf("remove container %q: %w", t.ID(), err)
	}
	return nil
}

// RemoveEnded removes the container if the task that is meant is still its last one and has ended: what a
// supervisor or a client does for a transient container. When another start has come in between it does nothing.
func (t *Task) RemoveEnded(ctx context.Context) error {
	last := t.lastSupervisor()
	err := t.remove(ctx, true, true)
	t.clearAfter(last)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %q: %w", t.ID(), err)
	}
	return nil
}

// remove does the work of Remove. With only, it concerns the task that is meant alone.
func (t *Task) remove(ctx context.Context, force, only bool) error {
	// Of a task whose init waits no program has run.
	if v, err := taskdir.Look(t.Dir()); err == nil && (force || v.State == taskdir.Created) {
		if err := t.End(ctx); err != nil {
			return err
		}
	}
	if err := t.awaitSupervisor(ctx, force); err != nil {
		return err
	}
	t.detached(ctx)
	l, err := t.lock(ctx)
	if err != nil {
		return err
	}
	err = func() error {
		now, err := t.present()
		if err != nil {
			return err
		}
		if only && now.inc != "" && now.inc != t.inc {
			return nil
		}
		v, err := now.settle()
		if err != nil {
			return err
		}
		if v.InUse() {
			return &RunningError{ID: t.ID()}
		}
		if err := now.unmountForeign(); err != nil {
			return err
		}
		// Nothing that runs can be mounted, and a transient container goes when it has run: it is spared the look.
		if !t.Container.Transient {
			if err := t.notMounted(ctx); err != nil {
				return err
			}
		}
		return now.removeRecords(ctx, l, v)
	}()
	return errors.Join(err, l.Release())
}

// RunningError says that a container must be stopped first. Its kind is errdefs.ErrFailedPrecondition.
type RunningError struct {
	ID       string
	Restarts bool // it does not run and waits for its next restart
}

// Error names the container.
func (e *RunningError) Error() string {
	if e.Restarts {
		return fmt.Sprintf("container %q is waiting for its next restart", e.ID)
	}
	return fmt.Sprintf("container %q is running", e.ID)
}

// Unwrap gives the kind.
func (e *RunningError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *RunningError) Hint() string {
	return fmt.Sprintf("ctr-task stop %s, or ctr-task rm -f %s", e.ID, e.ID)
}

// removeRecords removes what is kept of a container under its lock: the records in one commit, then the
// files, into the trash.
func (t *Task) removeRecords(ctx context.Context, l *lock.Lock, v taskdir.View) error {
	var drop []snapshot.ID
	err := t.commit(ctx, l, func(tx *state.Tx) error {
		drop = nil
		if v.State == taskdir.Stopped {
			tx.Emit(t.Namespace, event.TaskDelete{
				ContainerID: t.ID(), ID: t.ID(), Pid: uint32(v.Init.PID), ExitStatus: uint32(v.Exit.Status), ExitedAt: v.Exit.ExitedAt,
			})
		}
		if err := container.Remove(tx, t.Namespace, t.ID()); err != nil {
			return err
		}
		if t.Container.SnapshotKey == "" {
			return nil
		}
		sn, err := t.snapshots()
		if err != nil {
			return nil // it is in no record here
		}
		s, err := sn.Remove(tx, t.Namespace, t.Container.SnapshotKey)
		if errdefs.IsNotFound(err) {
			return nil
		}
		drop = s
		return err
	})
	if err != nil {
		return err
	}
	crash.Point("task.removed-records")
	for _, s := range drop {
		sn, err := t.snapshots()
		if err == nil {
			err = sn.Drop(t.d, s)
		}
		if err != nil {
			return err
		}
	}
	crash.Point("task.removed-snapshot")
	if err := t.trashTasks(); err != nil {
		return err
	}
	crash.Point("task.removed-task")
	if err := t.d.Trash(t.d.Path("containers", t.Namespace, t.Container.Files())); err != nil {
		return err
	}
	crash.Point("task.removed-log")
	return nil
}

// awaitSupervisor waits until the supervisor of a task that has ended has let go of it: it may still be at the
// rootfs. It waits, too, for the engines of one that was killed. A task that runs is not waited for. One that waits for
// its next restart is a [*RunningError], or with end is not started again.
func (t *Task) awaitSupervisor(ctx context.Context, end bool) error {
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	if v, err := taskdir.Look(t.Dir()); err == nil && v.State == taskdir.Stopped {
		if v.Restarting && !end {
			return &RunningError{ID: t.ID(), Restarts: true}
		}
		if v.Supervised {
			t.markStopping() // it may be waiting, for a policy that has been changed since
		}
	}
	for wait := time.Millisecond / 2; ; wait = min(2*wait, pollEvery) {
		v, err := taskdir.Look(t.Dir())
		if err != nil || !v.Abandoned && (v.State != taskdir.Stopped || !v.Supervised) {
			return err
		}
		if v.Supervisor.Foreign {
			if err := t.dismiss(ctx, v); err != nil {
				return err
			}
		}
		if err := pause(ctx, wait); err != nil {
			what := "supervisor"
			if v.Abandoned {
				what = "an engine of the killed supervisor"
			}
			return fmt.Errorf("%s pid %d does not end: %w", what, v.Supervisor.PID, err)
		}
	}
}

// Tidy ends the orphans of every namespace, removes transient containers that nobody else will remove, and
// what removals that were cut short have left: directories and logs whose container is gone. What anybody is
// at is left to them.
func Tidy(ctx context.Context, d *state.Dir) error {
	now, err := state.Open(state.Config{Root: d.Path(), State: d.Run(), Wait: 0})
	if err != nil {
		return err
	}
	// The directories first, then the leases, then the records: what has a directory has one of the two.
	tasks, err := collect(Dirs(d))
	if err != nil {
		return fmt.Errorf("tidy: %w", err)
	}
	logs, err := collect(LogDirs(d))
	if err != nil {
		return fmt.Errorf("tidy: %w", err)
	}
	held, err := lease.Live(d)
	if err != nil {
		return fmt.Errorf("tidy: %w", err)
	}
	known, files := map[string]bool{}, held[lease.Files]
	if files == nil {
		files = map[string]bool{}
	}
	unsure := map[string]bool{}
	var all []*Task
	err = d.View(ctx, func(tx *state.Tx) error {
		all = nil // of the others more is no harm: it is left alone
		namespaces, err := container.Namespaces(tx)
		if err != nil {
			return err
		}
		for _, ns := range namespaces {
			for c, err := range container.All(tx, ns) {
				if errdefs.IsDataLoss(err) { // its task and its files stay, and whose files they are is not known
					known[ns+"/"+c.ID], unsure[ns] = true, true
					continue
				}
				if err != nil {
					return err
				}
				known[ns+"/"+c.ID], files[ns+"/"+c.Files()] = true, true
				all = append(all, &Task{Container: c, Namespace: ns, d: now})
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tidy: %w", err)
	}
	for _, t := range all {
		t.tidy(ctx)
		// What a task has ended with, and what it is restored from, is for the next checkpoint: it may be all that is left of it.
		_ = t.SweepScratch(d, func(name string) bool { return strings.HasPrefix(name, DumpPrefix) })
	}
	for _, name := range tasks {
		if !known[name] {
			ns, id, _ := strings.Cut(name, "/")
			_ = RemoveRest(ctx, now, ns, id)
		}
	}
	sweep(d)
	if err := tidyNetworks(ctx, now); err != nil {
		d.Warn(fmt.Errorf("tidy: %w", err))
	}
	for _, name := range logs {
		if ns, _, _ := strings.Cut(name, "/"); !files[name] && !unsure[ns] {
			// No lock: a uid is nobody else's, and its record was written before its lease ended.
			_ = d.Trash(d.Path("containers", name))
		}
	}
	if err := sweepSockets(ctx, now); err != nil {
		return fmt.Errorf("tidy: %w", err)
	}
	return nil
}

func collect(names iter.Seq2[string, error]) (all []string, err error) {
	for name, err := range names {
		if err != nil {
			return nil, err
		}
		all = append(all, name)
	}
	return all, nil
}

// tidy ends the container's task if it is an orphan, and removes a transient container that has ended and has
// neither supervisor nor client. Whoever is at it keeps it: a lock that is not free is not waited for.
func (t *Task) tidy(ctx context.Context) {
	if t.refresh() != nil {
		return
	}
	v, err := taskdir.Look(t.Dir())
	if err != nil || v.State != taskdir.Orphaned && !(t.Container.Transient && (v.State == taskdir.None || v.State == taskdir.Stopped && !v.Supervised)) {
		return
	}
	l, err := t.lock(ctx)
	if err != nil {
		return
	}
	defer l.Release()
	if t.refresh() != nil {
		return
	}
	v, err = t.settle()
	if err != nil || !t.Container.Transient || v.InUse() {
		return
	}
	if client, err := t.clientLives(); err == nil && !client {
		last := t.lastSupervisor() // it may still be looking for the client
		_ = t.removeRecords(ctx, l, v)
		t.sweepAfter(last)
	}
}

// reclaim removes a transient container of the id that nobody has any more, as a unit that was killed leaves it to its
// next start. It tells whether the id is free.
func reclaim(ctx context.Context, d *state.Dir, ns, id string) bool {
	t, err := Open(ctx, d, ns, id)
	if err != nil || !t.Container.Transient {
		return errdefs.IsNotFound(err)
	}
	v, err := taskdir.Look(t.Dir())
	if err != nil {
		return false
	}
	if v.Task.Owner == taskdir.Client && v.Supervised {
		// Its supervisor ends it when the client was killed.
		died, err := taskdir.ClientDied(t.Dir())
		return err == nil && died && t.RemoveEnded(ctx) == nil
	}
	t.tidy(ctx)
	_, err = Open(ctx, d, ns, id)
	return errdefs.IsNotFound(err)
}

// clientLives tells whether a client that the task depends on lives.
func (t *Task) clientLives() (bool, error) { return lock.IsHeld(t.Dir() + "/" + taskdir.ClientLock) }

// RemoveRest removes what a removal that was cut short has left of the tasks of an id that has no container.
func RemoveRest(ctx context.Context, d *state.Dir, ns, id string) (err error) {
	t := &Task{Container: container.Container{ID: id}, Namespace: ns, d: d}
	if container.CheckID(id) != nil {
		return nil
	}
	defer d.EmptyTrash()
	if _, err := os.Lstat(t.base()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	l, err := d.Lock(ctx, nil, lock.Container, ns+"/"+id, lock.Exclusive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	err = d.View(ctx, func(tx *state.Tx) error {
		_, err := container.Get(tx, ns, id)
		return err
	})
	if !errdefs.IsNotFound(err) {
		return err // another has been made meanwhile, or cannot be read
	}
	if err := t.refresh(); err != nil {
		return err
	}
	v, err := t.settle()
	if err != nil || v.InUse() {
		return err
	}
	sweep(d)
	return t.trashTasks()
}
