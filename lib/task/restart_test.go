// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// keptRunning records a container that is always to run, and has its first program end with status 3.
func keptRunning(t *testing.T, d *state.Dir) *Task {
	t.Helper()
	if err := d.Update(t.Context(), nil, func(tx *state.Tx) error {
		labels := container.RestartLabels(taskdir.Restart{Policy: "always"})
		_, err := container.Create(tx, "default", container.Container{ID: "c", Labels: labels}, nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c := found(t, d, "c")
	reserved(t, c, StartOptions{})()
	write(t, c, taskdir.Init, taskdir.Process{PID: 1, StartTime: 1})
	write(t, c, taskdir.Begun, taskdir.Started{At: time.Now()})
	write(t, c, taskdir.End, taskdir.Exit{Status: 3, ExitedAt: time.Now()})
	return c
}

// A container that waits for its next restart is told from one that has stopped for good.
func TestRestarting(t *testing.T) {
	d := openDir(t)
	c := keptRunning(t, d)
	status := func(want Status) {
		t.Helper()
		if i, err := found(t, d, "c").Info(t.Context()); err != nil || i.Status != want || i.Exit == nil || i.Exit.Status != 3 {
			t.Errorf("%s, %+v, %v; want %s with status 3", i.Status, i.Exit, err, want)
		}
	}
	status(Stopped) // nobody is there to start it again
	for _, end := range []func(*Task) error{
		func(c *Task) error { return c.Stop(t.Context(), 0, 0) },
		func(c *Task) error { return c.Kill(t.Context(), unix.SIGKILL, false) },
	} {
		shim, err := lock.Hold(c.Dir() + "/" + taskdir.ShimLock)
		if err != nil {
			t.Fatal(err)
		}
		status(Restarting)
		for what, err := range map[string]error{
			"remove": found(t, d, "c").Remove(t.Context(), false),
			"rename": found(t, d, "c").Rename(t.Context(), "other"),
		} {
			if r, ok := errors.AsType[*RunningError](err); !ok || !r.Restarts {
				t.Errorf("%s: %v, want a RunningError that tells of restarts", what, err)
			}
		}
		status(Restarting)
		if exit, err := found(t, d, "c").Wait(t.Context()); err != nil || exit.Status != 3 {
			t.Errorf("Wait: %+v, %v", exit, err)
		}
		if err := end(found(t, d, "c")); err != nil {
			t.Error(err)
		}
		status(Stopped)
		shim.Release()
		c = found(t, d, "c")
		if err := c.discardEnded(t.Context()); err != nil {
			t.Fatal(err)
		}
		reserved(t, c, StartOptions{})()
		write(t, c, taskdir.Begun, taskdir.Started{At: time.Now()})
		write(t, c, taskdir.End, taskdir.Exit{Status: 3, ExitedAt: time.Now()})
	}
}

// A stop also ends the task that the supervisor of the one that is meant has just begun to start, and leaves alone what a
// person has started since.
func TestStopEndsARestart(t *testing.T) {
	for name, byPolicy := range map[string]bool{"restarted": true, "started": false} {
		t.Run(name, func(t *testing.T) {
			d := openDir(t)
			c := keptRunning(t, d)
			meant := found(t, d, "c")
			var o StartOptions
			if byPolicy {
				v, err := taskdir.Look(c.Dir())
				if err != nil {
					t.Fatal(err)
				}
				o.after = &v
			}
			starting := reserved(t, c, o)
			write(t, c, taskdir.Init, taskdir.Process{PID: 1, StartTime: 1})
			write(t, c, taskdir.Begun, taskdir.Started{At: time.Now()})
			if byPolicy {
				starting() // what is left alone shall not be an orphan
			} else {
				defer starting()
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := meant.Stop(ctx, 0, 0); err != nil {
				t.Fatal(err)
			}
			want := Running
			if byPolicy {
				want = Stopped
			}
			if i, err := found(t, d, "c").Info(ctx); err != nil || i.Status != want {
				t.Errorf("%s, %v; want %s", i.Status, err, want)
			}
		})
	}
}

// SIGKILL, too, also ends the task that the supervisor of the one that is meant has just begun to start, and leaves alone
// what a person has started since.
func TestKillEndsARestart(t *testing.T) {
	for name, byPolicy := range map[string]bool{"restarted": true, "started": false} {
		t.Run(name, func(t *testing.T) {
			d := openDir(t)
			c := keptRunning(t, d)
			meant := found(t, d, "c")
			var o StartOptions
			if byPolicy {
				v, err := taskdir.Look(c.Dir())
				if err != nil {
					t.Fatal(err)
				}
				o.after = &v
			}
			defer reserved(t, c, o)()
			write(t, c, taskdir.Init, taskdir.Process{PID: 1, StartTime: 1})
			write(t, c, taskdir.Begun, taskdir.Started{At: time.Now()})
			if err := meant.Kill(t.Context(), unix.SIGKILL, true); (err == nil) != byPolicy {
				t.Error(err)
			}
			if c.stopping() != byPolicy {
				t.Errorf("the new task is ended on purpose: %v", c.stopping())
			}
		})
	}
}

// TestRestartUnderWay: a task that its supervisor has let go of, for a program to start it again, waits for that: it is not
// removed, and a kill ends the wait. While that program makes the new task, the container is starting.
func TestRestartUnderWay(t *testing.T) {
	d := openDir(t)
	c := keptRunning(t, d)
	again, err := lock.Hold(filepath.Join(c.Dir(), taskdir.RestartLock))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Release()
	status := func(want Status) {
		t.Helper()
		if i, err := found(t, d, "c").Info(t.Context()); err != nil || i.Status != want {
			t.Errorf("%s, %v; want %s", i.Status, err, want)
		}
	}
	status(Restarting)
	if r, ok := errors.AsType[*RunningError](found(t, d, "c").Remove(t.Context(), false)); !ok || !r.Restarts {
		t.Errorf("remove: %+v", r)
	}
	made := filepath.Join(c.base(), ".new")
	if err := os.Mkdir(made, 0o700); err != nil {
		t.Fatal(err)
	}
	starting, err := lock.Hold(filepath.Join(made, taskdir.StartLock))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.trashOthers(made); err != nil {
		t.Fatal(err)
	}
	status(Starting)
	starting.Release()
	status(Created)

	c = found(t, d, "c")
	reserved(t, c, StartOptions{})()
	write(t, c, taskdir.Begun, taskdir.Started{At: time.Now()})
	write(t, c, taskdir.End, taskdir.Exit{Status: 3, ExitedAt: time.Now()})
	next, err := lock.Hold(filepath.Join(c.Dir(), taskdir.RestartLock))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Release()
	status(Restarting)
	if err := found(t, d, "c").Kill(t.Context(), unix.SIGKILL, false); err != nil {
		t.Errorf("kill: %v", err)
	}
	status(Stopped)
}
