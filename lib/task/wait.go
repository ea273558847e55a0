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

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/tail"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Wait gives the exit of the task: at once when it has ended, else when it does. When the container has no task
// it waits for the next one. It needs no answer of our supervisor, and ends an orphan. A task that is removed while
// it is waited for gives the exit it had; one whose start failed is errdefs.ErrNotFound.
func (t *Task) Wait(ctx context.Context) (taskdir.Exit, error) { return t.waitFor(ctx, true) }

// waitFor is Wait; without next, a container that has no task is errdefs.ErrNotFound.
func (t *Task) waitFor(ctx context.Context, next bool) (taskdir.Exit, error) {
	since, err := t.d.Journal().Last()
	if err != nil {
		return taskdir.Exit{}, err
	}
	exit, err := t.wait(ctx, next)
	if errdefs.IsNotFound(err) {
		if e, ok := t.exitEvent(ctx, since); ok {
			return e, nil
		}
	}
	if err != nil {
		return taskdir.Exit{}, fmt.Errorf("wait for container %q: %w", t.ID(), err)
	}
	return exit, nil
}

func (t *Task) wait(ctx context.Context, next bool) (taskdir.Exit, error) {
	if next {
		if err := t.awaitTask(ctx); err != nil {
			return taskdir.Exit{}, err
		}
	}
	for ran := !next; ; {
		v, err := t.view(ctx)
		if err != nil {
			return taskdir.Exit{}, err
		}
		switch v.State {
		case taskdir.Stopped:
			return v.Exit, t.seeOff(ctx, v)
		case taskdir.None:
			if ran {
				return taskdir.Exit{}, fmt.Errorf("its task has been removed: %w", errdefs.ErrNotFound)
			}
			// A start that failed.
			if err := t.awaitTask(ctx); err != nil {
				return taskdir.Exit{}, err
			}
			continue
		case taskdir.Running:
			ran = true
		case taskdir.Orphaned:
			if err := t.rest(ctx); err != nil {
				return taskdir.Exit{}, err
			}
			continue
		}
		if err := ctx.Err(); err != nil {
			return taskdir.Exit{}, context.Cause(ctx)
		}
		if err := t.awaitChange(ctx, v); err != nil {
			return taskdir.Exit{}, err
		}
	}
}

// awaitTask returns once the container has a task. One whose start fails does not count.
func (t *Task) awaitTask(ctx context.Context) error {
	for {
		if t.inc != "" {
			v, err := taskdir.Look(t.Dir())
			if err != nil || v.State != taskdir.None && v.State != taskdir.Creating {
				return err
			}
		}
		now, err := t.reopen(ctx)
		if err != nil {
			return err
		}
		if t.inc = now.inc; t.inc != "" {
			if v, err := taskdir.Look(t.Dir()); err != nil || v.State != taskdir.None && v.State != taskdir.Creating {
				return err
			}
		}
		if err := pause(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// pollEvery bounds a wait for what the kernel does not tell: a start lock that was let go, a directory
// that does not exist yet.
const pollEvery = 100 * time.Millisecond

// awaitChange returns when the exit is recorded, when the supervisor has died, or after a moment.
func (t *Task) awaitChange(ctx context.Context, v taskdir.View) error {
	if v.Supervisor.Foreign {
		return t.awaitForeign(ctx)
	}
	fd := -1
	if v.Supervisor.PID > 0 {
		if fd = v.Supervisor.Open(); fd < 0 {
			return pause(ctx, time.Millisecond) // its lock goes with it
		}
		defer unix.Close(fd)
	} else {
		short, cancel := context.WithTimeout(ctx, pollEvery)
		defer cancel()
		err := t.waitExit(short, fd)
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return nil
		}
		return err
	}
	return t.waitExit(ctx, fd)
}

// waitExit waits for the exit record, or the end of the process of a pidfd.
func (t *Task) waitExit(ctx context.Context, fd int) error {
	err := tail.WaitFile(ctx, t.Dir(), taskdir.End, fd)
	if errors.Is(err, tail.ErrDied) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// exitEvent looks in the journal for the exit of a task that has been removed: the first of its container since then.
// What comes after the removal of the container is of a namesake.
func (t *Task) exitEvent(ctx context.Context, since uint64) (exit taskdir.Exit, found bool) {
	for e, err := range t.d.Journal().Read(ctx, since, false) {
		if err != nil {
			break
		}
		if e.Namespace != t.Namespace {
			continue
		}
		if x, ok := event.Decode[event.TaskExit](e); ok && x.ContainerID == t.ID() && x.ID == t.ID() {
			return taskdir.Exit{Status: int(x.ExitStatus), ExitedAt: x.ExitedAt}, true
		}
		if x, ok := event.Decode[event.ContainerDelete](e); ok && x.ID == t.ID() {
			break
		}
		if x, ok := event.Decode[event.ContainerCreate](e); ok && x.ID == t.ID() {
			break
		}
	}
	return exit, false
}
