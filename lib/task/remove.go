// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Remove removes a container, its task, snapshot and log. One that runs is errdefs.ErrFailedPrecondition
// unless force, which kills it first; so is one whose snapshot somebody has mounted. One that is not there
// is errdefs.ErrNotFound; what an earlier removal that was cut short has left of it is removed all the same.
func Remove(ctx context.Context, d *state.Dir, ns, id string, force bool) error {
	c, err := find(ctx, d, ns, id)
	if errdefs.IsNotFound(err) && container.CheckID(id) == nil {
		return errors.Join(err, removeRest(ctx, d, ns, id))
	}
	if err != nil {
		return err
	}
	// Nothing that runs can be mounted, and a transient container goes when it has run: it is spared the look.
	if !c.Transient {
		if err := snapshot.NotMounted(ctx, d, ns, c.SnapshotKey); err != nil {
			return fmt.Errorf("remove container %q: %w", c.ID, err)
		}
	}
	if force {
		if err := killAndWait(ctx, d, ns, c.ID); err != nil {
			return fmt.Errorf("remove container %q: %w", c.ID, err)
		}
	}
	return remove(ctx, d, ns, c.ID)
}

// removeRest removes the task directory and the log of a container that has no record.
func removeRest(ctx context.Context, d *state.Dir, ns, id string) error {
	for _, path := range []string{Dir(d, ns, id), d.Path("containers", ns, id)} {
		if _, err := os.Lstat(path); err == nil {
			return Finish(ctx, d, ns, id)
		}
	}
	return nil
}

// remove removes a container that has ended.
func remove(ctx context.Context, d *state.Dir, ns, id string) error {
	if err := awaitSupervisor(ctx, Dir(d, ns, id)); err != nil {
		return fmt.Errorf("remove container %q: %w", id, err)
	}
	l, err := d.Lock(ctx, nil, lock.Container, ns+"/"+id, lock.Exclusive)
	if err != nil {
		return fmt.Errorf("remove container %q: %w", id, err)
	}
	err = func() error {
		if _, err := finish(d, ns, id); err != nil {
			return err
		}
		if alive, err := taskdir.Live(Dir(d, ns, id)); err != nil {
			return err
		} else if alive {
			return &RunningError{ID: id}
		}
		return removeRecords(ctx, d, l, ns, id)
	}()
	if err = errors.Join(err, l.Release()); err != nil {
		return fmt.Errorf("remove container %q: %w", id, err)
	}
	return d.EmptyTrash()
}

// RunningError says that a container must be stopped first. Its kind is errdefs.ErrFailedPrecondition.
type RunningError struct{ ID string }

// Error names the container.
func (e *RunningError) Error() string { return fmt.Sprintf("container %q is running", e.ID) }

// Unwrap gives the kind.
func (e *RunningError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *RunningError) Hint() string {
	return fmt.Sprintf("ctr-task stop %s, or ctr-task rm -f %s", e.ID, e.ID)
}

// removeRecords removes what is kept of a container under its lock: the records in one commit, then the
// files, into the trash. What is gone already is done.
func removeRecords(ctx context.Context, d *state.Dir, l *lock.Lock, ns, id string) error {
	var c container.Container
	err := d.View(ctx, func(tx *state.Tx) (err error) {
		c, err = container.Get(tx, ns, id)
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	dir := Dir(d, ns, id)
	var exit taskdir.Exit
	var p taskdir.Process
	ended, _ := taskdir.Read(dir, taskdir.End, &exit)
	taskdir.Read(dir, taskdir.Init, &p)
	var drop []snapshot.ID
	if err == nil {
		update := d.Update
		if c.Transient {
			update = d.UpdateRun
		}
		err = update(ctx, l, func(tx *state.Tx) error {
			drop = nil
			if ended {
				tx.Emit(ns, event.TaskDelete{ContainerID: id, ID: id, Pid: uint32(p.PID), ExitStatus: uint32(exit.Status), ExitedAt: exit.ExitedAt})
			}
			if err := container.Remove(tx, ns, id); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			if c.SnapshotKey == "" {
				return nil
			}
			s, err := snapshot.Remove(tx, ns, c.SnapshotKey)
			if errdefs.IsNotFound(err) {
				return nil
			}
			drop = s
			return err
		})
		if err != nil {
			return err
		}
	}
	crash.Point("task.removed-records")
	for _, s := range drop {
		if err := snapshot.Drop(d, s); err != nil {
			return err
		}
	}
	crash.Point("task.removed-snapshot")
	if err := d.Trash(dir); err != nil {
		return err
	}
	crash.Point("task.removed-task")
	if err := d.Trash(d.Path("containers", ns, id)); err != nil {
		return err
	}
	crash.Point("task.removed-log")
	return nil
}

// awaitSupervisor waits until the supervisor of a task that has ended has left: it unmounts the rootfs
// after it has recorded the exit. A task that runs is not waited for.
func awaitSupervisor(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	for {
		// Each time anew: somebody may start it again meanwhile.
		var exit taskdir.Exit
		if ended, err := taskdir.Read(dir, taskdir.End, &exit); !ended || err != nil {
			return err
		}
		var s taskdir.Supervisor
		if ok, err := taskdir.Read(dir, taskdir.Shim, &s); !ok || err != nil {
			return err
		}
		held, err := taskdir.Supervised(dir)
		if !held || err != nil {
			return err
		}
		fd := s.Open()
		if fd < 0 {
			err = pause(ctx, time.Millisecond) // its lock goes with it
		} else {
			err = poll(ctx, fd)
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("supervisor pid %d does not end: %w", s.PID, err)
		}
	}
}

// pause waits for a moment, or fails when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
