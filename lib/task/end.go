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

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Kill sends a signal to the first process of the task, or with all to every process of it. SIGKILL is
// meant to end it: it suppresses the restart policy, and of a task that waits for its next restart ends the wait.
func (t *Task) Kill(ctx context.Context, sig unix.Signal, all bool) error {
	if err := t.kill(ctx, sig, all); err != nil {
		return fmt.Errorf("kill container %q: %w", t.ID(), err)
	}
	return nil
}

func (t *Task) kill(ctx context.Context, sig unix.Signal, all bool) error {
	if sig != unix.SIGKILL {
		return t.deliver(ctx, sig, all)
	}
	for {
		v, err := taskdir.Look(t.Dir())
		t.markStopping()
		waits := err == nil && v.Restarting
		if !waits {
			if err = t.deliver(ctx, sig, all); err == nil {
				return nil
			}
		}
		// The mark may have come too late: then the next task runs.
		again, e := t.restartedMeanwhile(ctx)
		switch {
		case e != nil:
			return e
		case again:
			continue
		case waits:
			return nil
		}
		return err
	}
}

// deliver sends a signal and says nothing of what it is meant for.
func (t *Task) deliver(ctx context.Context, sig unix.Signal, all bool) error {
	err := t.call(ctx, answerWithin, func(ctx context.Context, c *taskapi.Client) error {
		return c.Kill(ctx, &taskapi.KillRequest{ID: t.ID(), Signal: uint32(sig), All: all})
	})
	if err == nil || errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) || ctx.Err() != nil {
		return err
	}
	return t.killPast(sig, all, err)
}

// killPast signals the processes of a task whose supervisor does not answer, for the cause given.
func (t *Task) killPast(sig unix.Signal, all bool, cause error) error {
	v, err := taskdir.Look(t.Dir())
	if err != nil || v.Init.PID == 0 {
		return errors.Join(cause, err)
	}
	if v.State == taskdir.Stopped { // its shim would have said so, and has ended meanwhile
		return fmt.Errorf("container %q has ended: %w", t.ID(), errdefs.ErrNotFound)
	}
	if all && sig == unix.SIGKILL {
		return cgroup.Kill(t.cgroup(v))
	}
	if all {
		return cause // the first process is not every process
	}
	fd := v.Init.Open()
	if fd < 0 {
		return cause
	}
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// markStopping says that the task is ended on purpose, so that no restart policy applies.
func (t *Task) markStopping() { taskdir.MarkStopping(t.Dir()) }

// Stop asks the task to end with a signal, of 0 the container's stop signal, and calls [Task.End] when it has
// not after the grace, which has no end when it is negative. A container that does not run is stopped already; one
// that waits for its next restart is not started again.
func (t *Task) Stop(ctx context.Context, sig unix.Signal, grace time.Duration) error {
	t.markStopping()
	// Where the labels cannot be written, on a full disk, it is stopped all the same.
	err := t.meantToRun(ctx, false)
	err = errors.Join(err, t.stop(ctx, sig, grace))
	for err == nil {
		var again bool
		if again, err = t.restartedMeanwhile(ctx); !again {
			break
		}
		t.markStopping()
		err = t.stop(ctx, sig, grace)
	}
	if err != nil {
		return fmt.Errorf("stop container %q: %w", t.ID(), err)
	}
	t.detached(ctx)
	return nil
}

func (t *Task) stop(ctx context.Context, sig unix.Signal, grace time.Duration) error {
	v, err := t.view(ctx)
	if err != nil {
		return err
	}
	switch v.State {
	case taskdir.None:
		return nil
	case taskdir.Stopped:
		return t.seeOff(ctx, v)
	case taskdir.Creating, taskdir.Created, taskdir.Orphaned:
		return t.End(ctx) // there is no program to ask
	}
	if sig == 0 {
		sig = stopSignal(t.Container.StopSignal)
	}
	t.markStopping()
	err = t.kill(ctx, sig, false)
	crash.Point("task.signalled")
	if frozen, _ := cgroup.Frozen(t.cgroup(v)); frozen && err == nil {
		err = t.Resume(ctx) // so that it can do what the signal asks for
	}
	if err != nil && !errdefs.IsNotFound(err) { // the program has ended; the rest may still have to
		return err
	}
	if ended, err := t.awaitGrace(ctx, v, grace); ended || err != nil {
		return err
	}
	return t.End(ctx)
}

// awaitGrace waits for the task to end, for as long as grace says; it reports false when that has passed, or when the
// program has ended and its supervisor, which is stopped, does not see to the rest. A failure to wait is not taken for
// the end of the grace.
func (t *Task) awaitGrace(ctx context.Context, v taskdir.View, grace time.Duration) (ended bool, err error) {
	short, cancel := ctx, func() {}
	if grace >= 0 {
		short, cancel = context.WithTimeout(ctx, grace)
	}
	defer cancel()
	for {
		slice, done := context.WithTimeout(short, silentAfter)
		err := t.awaitEnd(slice)
		late := slice.Err() != nil
		done()
		if err == nil || ctx.Err() != nil || !late {
			return err == nil, err
		}
		if short.Err() != nil {
			return false, nil
		}
		if _, stopped := t.supervisorStopped(); stopped && !v.Init.Alive() {
			return false, nil
		}
	}
}

func stopSignal(name string) unix.Signal {
	if s, err := ParseSignal(name); err == nil {
		return s
	}
	return unix.SIGTERM
}

// End kills all of the task and returns when its exit is recorded. A supervisor that is stopped is let go on;
// one that still does not do its part is killed, and what it leaves is ended here. An orphan is ended, and a
// task that has ended is left as it is.
func (t *Task) End(ctx context.Context) error {
	v, err := t.view(ctx)
	if err != nil || v.State == taskdir.None {
		return err
	}
	if v.State == taskdir.Stopped {
		return t.seeOff(ctx, v)
	}
	t.markStopping()
	if v.State != taskdir.Orphaned {
		_ = t.kill(ctx, unix.SIGKILL, true) // how it went shows in whether the task ends
	}
	crash.Point("task.killed")
	err = t.awaitEndFor(ctx, silentAfter)
	for _, sig := range []unix.Signal{unix.SIGCONT, unix.SIGKILL} {
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if sig == unix.SIGKILL {
			err = t.awaitEndFor(ctx, answerWithin+t.PoststopTime())
			if err == nil || ctx.Err() != nil {
				return err
			}
		}
		var s taskdir.Supervisor
		if known, e := taskdir.Read(t.Dir(), taskdir.Shim, &s); e == nil && known {
			if fd := s.Open(); fd >= 0 {
				unix.PidfdSendSignal(fd, sig, nil, 0)
				unix.Close(fd)
			}
		}
		err = t.awaitEndFor(ctx, answerWithin)
	}
	if err != nil && ctx.Err() == nil {
		if v, e := taskdir.Look(t.Dir()); e == nil && v.Abandoned {
			t.endStrays() // an engine that hangs
		}
		err = t.awaitEndFor(ctx, endWithin)
	}
	return err
}

// PoststopTime is how long a supervisor that does its part may be busy with the hooks that run after the stop: what they are allowed by
// their own timeouts. Where one has none nobody knows, and a task that is to end does not wait for it.
func (t *Task) PoststopTime() time.Duration {
	v, err := taskdir.Look(t.Dir())
	if err != nil || !v.Supervised || v.State == taskdir.Stopped {
		return 0 // nobody runs them
	}
	hooks, err := taskdir.Hooks(t.bundleDir())
	if err != nil {
		return 0
	}
	if within := ask.PoststopTime(hooks); within < ask.Unbounded {
		return within
	}
	return 0
}

func (t *Task) awaitEndFor(ctx context.Context, d time.Duration) error {
	short, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return t.awaitEnd(short)
}

// awaitEnd returns when the task's exit is recorded, and ends an orphan. Unlike [Task.Wait] it returns at
// once when the container has no task.
func (t *Task) awaitEnd(ctx context.Context) error {
	for {
		v, err := t.view(ctx)
		if err != nil {
			return err
		}
		switch v.State {
		case taskdir.None:
			return nil
		case taskdir.Stopped:
			return t.seeOff(ctx, v)
		case taskdir.Orphaned:
			return t.rest(ctx)
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := t.awaitChange(ctx, v); err != nil {
			return err
		}
	}
}

// killedStatus is the exit status of a task whose supervisor was killed: what SIGKILL gives.
const killedStatus = 128 + 9

// supervisorDied is the reason of such an exit.
const supervisorDied = "supervisor died"

// rest ends an orphan under the container's lock.
func (t *Task) rest(ctx context.Context) error {
	if err := t.awaitSupervisor(ctx, false); err != nil {
		return err
	}
	l, err := t.lock(ctx)
	if err != nil {
		return err
	}
	_, err = t.settle()
	err = errors.Join(err, l.Release())
	t.d.EmptyTrash()
	return err
}

// settle brings the task that is meant to rest if it is an orphan, and gives what it is then. What is left in
// its cgroup is killed and the exit recorded; a directory in which nothing ever ran goes to the trash. A task
// that has anybody, an engine among them, is left alone. The caller holds the container's lock.
func (t *Task) settle() (taskdir.View, error) {
	v, err := taskdir.Look(t.Dir())
	if err != nil || v.State != taskdir.Orphaned && v.State != taskdir.Stopped || v.Supervised || v.Abandoned {
		return v, err
	}
	t.removeSocket(v.Supervisor)
	if v.State == taskdir.Stopped {
		return v, nil
	}
	switch {
	case v.Supervisor.Foreign:
		t.cleanForeign()
	case v.Supervisor.PID == 0: // its starter was killed before it had made any container
		t.endStrays()
	}
	if err := t.endCgroup(v); err != nil {
		return v, err
	}
	sweep(t.d)
	crash.Point("task.finish-removed")
	if v.Init.PID == 0 {
		return taskdir.View{}, t.discardDir()
	}
	v.Exit = taskdir.Exit{Status: killedStatus, ExitedAt: time.Now().UTC(), Reason: supervisorDied}
	if err := taskdir.WriteExit(t.Dir(), v.Exit); err != nil {
		return v, err
	}
	if !v.Supervisor.Foreign {
		os.Remove(filepath.Join(t.Dir(), taskdir.Bundle, taskdir.BundleLog)) // nobody reads it any more
	}
	v.State = taskdir.Stopped
	crash.Point("task.finish-recorded")
	// An event that is lost is told by the journal's gap; the exit is not to depend on it.
	_ = t.d.Journal().Append(t.Namespace, event.TaskExit{
		ContainerID: t.ID(), ID: t.ID(), Pid: uint32(v.Init.PID), ExitStatus: killedStatus, ExitedAt: v.Exit.ExitedAt,
	})
	return v, nil
}

// discardDir moves the task's directory to the trash. The caller holds the container's lock.
func (t *Task) discardDir() error {
	if t.inc == "" {
		return nil
	}
	if _, err := t.unlinkBundle(); err != nil {
		return err
	}
	if err := errors.Join(t.unmountForeign(), t.d.Trash(t.Dir())); err != nil {
		return err
	}
	os.Remove(t.base()) // when nothing else is in it
	t.inc = ""
	return nil
}

// trashOthers moves what there is of the container's tasks, but for the directory made, to the trash. None runs, and the
// caller holds the container's lock.
func (t *Task) trashOthers(made string) error {
	entries, err := os.ReadDir(t.base())
	if err != nil {
		return err
	}
	if _, err := t.unlinkBundle(); err != nil {
		return err
	}
	for _, e := range entries {
		if path := filepath.Join(t.base(), e.Name()); path != made {
			err = errors.Join(err, t.d.Trash(path))
		}
	}
	return err
}

// trashTasks moves all that there is of the container's tasks to the trash. None runs, and the caller holds the
// container's lock.
func (t *Task) trashTasks() error {
	if _, err := t.unlinkBundle(); err != nil {
		return err
	}
	return errors.Join(t.unmountForeign(), t.d.Trash(t.base()))
}
