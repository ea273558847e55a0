// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/tail"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Wait gives the exit of a container's task: at once when it has ended, else when it does, also when it
// has not been started yet. It needs no answer of the supervisor, and ends one whose supervisor was
// killed. A container that is removed while it is waited for gives the exit it had.
func Wait(ctx context.Context, d *state.Dir, ns, id string) (taskdir.Exit, error) {
	c, err := find(ctx, d, ns, id)
	if err != nil {
		return taskdir.Exit{}, err
	}
	since, err := d.Journal().Last()
	if err != nil {
		return taskdir.Exit{}, err
	}
	exit, err := wait(ctx, d, ns, c.ID)
	if errdefs.IsNotFound(err) {
		if e, ok := exitEvent(ctx, d, ns, c.ID, since); ok {
			return e, nil
		}
	}
	if err != nil {
		return taskdir.Exit{}, fmt.Errorf("wait for container %q: %w", c.ID, err)
	}
	return exit, nil
}

func wait(ctx context.Context, d *state.Dir, ns, id string) (taskdir.Exit, error) {
	dir := Dir(d, ns, id)
	for {
		var exit taskdir.Exit
		if ended, err := taskdir.Read(dir, taskdir.End, &exit); ended || err != nil {
			return exit, err
		}
		if err := ctx.Err(); err != nil {
			return taskdir.Exit{}, context.Cause(ctx)
		}
		alive, err := taskdir.Live(dir)
		if err != nil {
			return taskdir.Exit{}, err
		}
		if !alive {
			if err := Finish(ctx, d, ns, id); err != nil {
				return taskdir.Exit{}, err
			}
			if _, err := find(ctx, d, ns, id); err != nil {
				return taskdir.Exit{}, err
			}
		}
		if err := awaitChange(ctx, dir); err != nil {
			return taskdir.Exit{}, err
		}
	}
}

// pollEvery bounds a wait for what the kernel does not tell: a start lock that was let go, a directory
// that does not exist yet.
const pollEvery = 100 * time.Millisecond

// awaitChange returns when the exit is recorded, when the supervisor has died, or after a moment.
func awaitChange(ctx context.Context, dir string) error {
	var s taskdir.Supervisor
	known, err := taskdir.Read(dir, taskdir.Shim, &s)
	if err != nil {
		return err
	}
	fd := -1
	if known {
		if fd = s.Open(); fd < 0 {
			return nil
		}
		defer unix.Close(fd)
	} else {
		short, cancel := context.WithTimeout(ctx, pollEvery)
		defer cancel()
		ctx = short
	}
	err = tail.WaitFile(ctx, dir, taskdir.End, fd)
	switch {
	case err == nil, errors.Is(err, tail.ErrDied), !known && errors.Is(err, context.DeadlineExceeded):
		return nil
	case errors.Is(err, os.ErrNotExist):
		time.Sleep(pollEvery)
		return nil
	}
	return err
}

// exitEvent looks in the journal for the exit of a container that has been removed.
func exitEvent(ctx context.Context, d *state.Dir, ns, id string, since uint64) (exit taskdir.Exit, found bool) {
	for e, err := range d.Journal().Read(ctx, since, false) {
		if err != nil {
			break
		}
		if x, ok := event.Decode[event.TaskExit](e); ok && e.Namespace == ns && x.ContainerID == id && x.ID == id {
			exit, found = taskdir.Exit{Status: int(x.ExitStatus), ExitedAt: x.ExitedAt}, true
		}
	}
	return exit, found
}

// find looks a container up as container.Find does.
func find(ctx context.Context, d *state.Dir, ns, query string) (c container.Container, err error) {
	err = d.View(ctx, func(tx *state.Tx) error {
		c, err = container.Find(tx, ns, query)
		return err
	})
	return c, err
}

// poll waits until the descriptor is readable: for a pidfd, until the process has ended.
func poll(ctx context.Context, fd int) error {
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(pollEvery/time.Millisecond))
		if n > 0 || err != nil && err != unix.EINTR {
			return err
		}
	}
}

// running tells whether the task's supervisor lives and the exit is not recorded.
func running(dir string) (bool, error) {
	held, err := lock.IsHeld(filepath.Join(dir, taskdir.ShimLock))
	if !held || err != nil {
		return false, err
	}
	_, err = os.Stat(filepath.Join(dir, taskdir.End))
	return errors.Is(err, os.ErrNotExist), nil
}
