// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Bounds of what is waited for.
const (
	answerWithin = 5 * time.Second  // an answer that costs the supervisor no work
	silentAfter  = time.Second      // a supervisor that has not answered by then is looked at
	endWithin    = 30 * time.Second // the end of what was killed; a process on a dead network filesystem ends later or never
	longest      = time.Minute      // an answer, where --wait sets no bound
)

// NotRunningError says that a verb needs a running container. Its kind is errdefs.ErrFailedPrecondition.
type NotRunningError struct {
	ID     string
	Status Status
}

// Error names the container and its state.
func (e *NotRunningError) Error() string {
	return fmt.Sprintf("container %q is not running (%s)", e.ID, e.Status)
}

// Unwrap gives the kind.
func (e *NotRunningError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *NotRunningError) Hint() string { return "ctr-task start " + e.ID }

// SilentError says that a supervisor has not answered. Its kind is errdefs.ErrAborted: busy.
type SilentError struct {
	ID      string
	PID     int // of the supervisor; 0: it has not said
	Stopped bool
	After   time.Duration
	Ended   bool // it was that of a start, which has been taken back
}

// Error names the container and the supervisor.
func (e *SilentError) Error() string {
	pid := ""
	if e.PID > 0 {
		pid = fmt.Sprintf(", pid %d,", e.PID)
	}
	if e.Stopped {
		return fmt.Sprintf("the supervisor of container %q%s is stopped (SIGSTOP) and does not answer", e.ID, pid)
	}
	return fmt.Sprintf("the supervisor of container %q%s has not answered after %s", e.ID, pid, e.After.Round(time.Second/10))
}

// Unwrap gives the kind.
func (e *SilentError) Unwrap() error { return errdefs.ErrAborted }

// Hint names the next step, if there is any.
func (e *SilentError) Hint() string {
	switch {
	case e.Ended:
		return ""
	case e.Stopped:
		return fmt.Sprintf("kill -CONT %d lets it go on", e.PID)
	}
	return fmt.Sprintf("ctr-task rm -f %s ends both", e.ID)
}

// patience is how long a supervisor may take for work: as long as a lock may be waited for.
func (t *Task) patience() time.Duration { return patience(t.d) }

func patience(d *state.Dir) time.Duration {
	wait := d.Locks().Wait
	if wait < 0 {
		return longest
	}
	return min(max(wait, answerWithin), longest)
}

// connect gives the connection to the supervisor of the task. A task that does not run is a
// [*NotRunningError].
func (t *Task) connect(ctx context.Context) (*taskapi.Client, error) {
	if t.api != nil {
		return t.api, nil
	}
	v, err := taskdir.Look(t.Dir())
	if err != nil {
		return nil, err
	}
	switch {
	case v.State != taskdir.Created && v.State != taskdir.Running && v.State != taskdir.Creating:
		seen := *t // Info may come to mean another task of the container
		info, err := seen.Info(ctx)
		if err != nil {
			return nil, err
		}
		return nil, &NotRunningError{ID: t.ID(), Status: info.Status}
	case v.Supervisor.Address == "":
		return nil, fmt.Errorf("the supervisor of container %q is still starting: %w", t.ID(), errdefs.ErrAborted)
	}
	if err := t.dial(ctx, v.Supervisor.Address); err != nil {
		return nil, err
	}
	return t.api, nil
}

// dial connects to a supervisor.
func (t *Task) dial(ctx context.Context, address string) error {
	c, err := taskapi.Dial(ctx, address)
	if err != nil {
		return gone(err)
	}
	c.Namespace = t.Namespace
	t.api = c
	return nil
}

// call calls the supervisor and bounds the wait for its answer. One that does not answer is a
// [*SilentError]: soon when it is stopped, else after within.
func (t *Task) call(ctx context.Context, within time.Duration, fn func(context.Context, *taskapi.Client) error) error {
	api, err := t.connect(ctx)
	if err != nil {
		return err
	}
	return t.bounded(ctx, within, func(ctx context.Context) error { return fn(ctx, api) })
}

// bounded calls fn with a context that ends when the supervisor has been silent for too long.
func (t *Task) bounded(ctx context.Context, within time.Duration, fn func(context.Context) error) error {
	short, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	watch := time.AfterFunc(min(silentAfter, within), func() {
		for short.Err() == nil {
			pid, stopped := t.supervisorStopped()
			if left := within - time.Since(began); stopped || left <= 0 {
				cancel(&SilentError{ID: t.ID(), PID: pid, Stopped: stopped, After: time.Since(began)})
				return
			} else if pause(short, min(left, silentAfter)) != nil {
				return
			}
		}
	})
	defer watch.Stop()
	err := fn(short)
	if silent, ok := errors.AsType[*SilentError](context.Cause(short)); ok && err != nil && ctx.Err() == nil {
		return silent
	}
	return gone(err)
}

// gone gives the error of a supervisor that nobody reaches, as it has died, the kind errdefs.ErrAborted: who asks again
// finds out what has become of the task. errdefs.ErrUnavailable alone would be taken for the network's.
func gone(err error) error {
	if errdefs.IsUnavailable(err) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrAborted)
	}
	return err
}

// supervisorStopped looks at the supervisor's process: has somebody stopped it (SIGSTOP, a debugger)?
func (t *Task) supervisorStopped() (pid int, stopped bool) {
	var s taskdir.Supervisor
	if known, err := taskdir.Read(t.Dir(), taskdir.Shim, &s); err != nil || !known {
		return 0, false
	}
	_, f, err := taskdir.Stat(s.PID)
	return s.PID, err == nil && (f[0] == "T" || f[0] == "t")
}
