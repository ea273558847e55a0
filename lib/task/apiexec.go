// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// AddExec adds a process to the task, which [Task.StartExec] runs and [Task.DeleteExec] forgets; nothing else does. spec is
// a message with the JSON of an OCI process. An id that is taken is errdefs.ErrAlreadyExists, a task that does not run
// errdefs.ErrFailedPrecondition.
func (t *Task) AddExec(ctx context.Context, id string, io taskdir.IO, spec *taskapi.Any) error {
	if err := container.CheckID(id); err != nil {
		return fmt.Errorf("exec in container %q: %w", t.ID(), err)
	}
	err := t.ask(ctx, func(ctx context.Context, c *taskapi.Client) error {
		return c.Exec(ctx, &taskapi.ExecProcessRequest{
			ID: t.ID(), ExecID: id, Terminal: io.Terminal, Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr, Spec: spec,
		})
	})
	if err != nil {
		return fmt.Errorf("exec in container %q: %w", t.ID(), err)
	}
	// Our shim has made the directory. One that is gone has been deleted again.
	if t.shimIsForeign() {
		err = os.MkdirAll(t.execDir(id), 0o700)
	}
	if err == nil {
		err = taskdir.Write(t.execDir(id), taskdir.ExecIO, io)
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return err
}

func (t *Task) execDir(id string) string { return filepath.Join(t.Dir(), taskdir.Execs, id) }

func (t *Task) shimIsForeign() bool {
	var s taskdir.Supervisor
	known, err := taskdir.Read(t.Dir(), taskdir.Shim, &s)
	return err == nil && known && s.Foreign
}

// StartExec runs an exec that was added, and gives its pid. When that fails, and when the task has ended, which is
// errdefs.ErrFailedPrecondition, the exec stays as it was.
func (t *Task) StartExec(ctx context.Context, id string) (pid int, err error) {
	if id == "" { // as for DeleteExec
		return 0, t.noExec(id)
	}
	err = t.ask(ctx, func(ctx context.Context, c *taskapi.Client) error {
		started, err := c.Start(ctx, &taskapi.StartRequest{ID: t.ID(), ExecID: id})
		if err == nil {
			pid = int(started.Pid)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("start exec %q in container %q: %w", id, t.ID(), err)
	}
	return pid, nil
}

// execState asks the shim for an exec; when that has no task any more, it reads what is left of the exec.
func (t *Task) execState(ctx context.Context, v taskdir.View, id string) (s ProcessState, err error) {
	if container.CheckID(id) != nil {
		return s, t.noExec(id)
	}
	if v.State != taskdir.Stopped {
		err = t.ask(ctx, func(ctx context.Context, c *taskapi.Client) error {
			r, err := c.State(ctx, &taskapi.StateRequest{ID: t.ID(), ExecID: id})
			if err == nil {
				s = ProcessState{
					ContainerID: t.ID(), ExecID: id, PID: int(r.Pid), Status: r.Status,
					IO:   taskdir.IO{Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr},
					Exit: taskdir.Exit{Status: int(r.ExitStatus), ExitedAt: r.ExitedAt},
				}
			}
			return err
		})
		if !shimGone(err) {
			return s, err
		}
		if v, err = t.settled(ctx); err != nil {
			return s, err
		}
	}
	return t.execLeft(v, id)
}

// shimGone tells of a call that failed because the shim has ended, or is about to, with its task.
func shimGone(err error) bool {
	_, idle := errors.AsType[*NotRunningError](err)
	return idle || errdefs.IsUnavailable(err)
}

// execLeft tells of an exec of a task that has ended: one that had not been started stays as it is.
func (t *Task) execLeft(v taskdir.View, id string) (s ProcessState, err error) {
	dir := t.execDir(id)
	if _, err := os.Lstat(dir); err != nil {
		return s, t.noExec(id)
	}
	s = ProcessState{ContainerID: t.ID(), ExecID: id, Status: taskapi.StatusCreated}
	if _, err := taskdir.Read(dir, taskdir.ExecIO, &s.IO); err != nil {
		return s, err
	}
	ended, err := taskdir.Read(dir, taskdir.End, &s.Exit)
	switch {
	case err != nil:
		return s, err
	case ended:
		s.Status = taskapi.StatusStopped
	case v.Supervisor.Foreign || v.Exit.Reason == supervisorDied:
		// Nobody has recorded whether it ran; if it did, it was killed with the task.
		s.Status, s.Exit = taskapi.StatusStopped, taskdir.Exit{Status: killedStatus, ExitedAt: v.Exit.ExitedAt}
	}
	return s, nil
}

func (t *Task) noExec(id string) error {
	return fmt.Errorf("exec %q of container %q: %w", id, t.ID(), errdefs.ErrNotFound)
}

// waitExec is WaitProcess for an exec.
func (t *Task) waitExec(ctx context.Context, id string) (taskdir.Exit, error) {
	for {
		v, err := t.settled(ctx)
		if err != nil {
			return taskdir.Exit{}, err
		}
		s, err := t.stateOf(ctx, v, id)
		if err != nil {
			return taskdir.Exit{}, err
		}
		switch {
		case s.Status == taskapi.StatusStopped:
			return s.Exit, nil
		case v.State == taskdir.Stopped:
			return taskdir.Exit{}, fmt.Errorf("exec %q of container %q was not started, and the container has ended: %w", id, t.ID(), errdefs.ErrFailedPrecondition)
		}
		api, err := t.connect(ctx)
		if err == nil {
			var w *taskapi.WaitResponse
			if w, err = api.Wait(ctx, &taskapi.WaitRequest{ID: t.ID(), ExecID: id}); err == nil {
				return told(w.ExitStatus, w.ExitedAt), nil
			}
		}
		if ctx.Err() != nil {
			return taskdir.Exit{}, context.Cause(ctx)
		}
		if !shimGone(err) {
			return taskdir.Exit{}, err
		}
		// The files tell the rest, once the shim has let go.
		if err := t.Close(); err != nil {
			return taskdir.Exit{}, err
		}
		if err := pause(ctx, pollEvery/10); err != nil {
			return taskdir.Exit{}, err
		}
	}
}

// DeleteExec forgets an exec that does not run, and tells how it ended.
func (t *Task) DeleteExec(ctx context.Context, id string) (ProcessState, error) {
	if id == "" { // a shim would take that for the task
		return ProcessState{}, t.noExec(id)
	}
	s, err := t.State(ctx, id)
	if err != nil {
		return s, err
	}
	if s.Status != taskapi.StatusStopped && s.Status != taskapi.StatusCreated {
		return s, fmt.Errorf("delete exec %q of container %q: it is %s: %w", id, t.ID(), s.Status, errdefs.ErrFailedPrecondition)
	}
	err = t.ask(ctx, func(ctx context.Context, c *taskapi.Client) error {
		_, err := c.Delete(ctx, &taskapi.DeleteRequest{ID: t.ID(), ExecID: id})
		return err
	})
	if err != nil && !shimGone(err) {
		return s, err
	}
	return s, os.RemoveAll(t.execDir(id))
}
