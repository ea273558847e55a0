// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// answerWithin bounds how long a supervisor may take to answer what costs it no work.
const answerWithin = 5 * time.Second

// NotRunningError says that a verb needs a running container. Its kind is errdefs.ErrFailedPrecondition.
type NotRunningError struct{ ID, Status string }

// Error names the container and its state.
func (e *NotRunningError) Error() string {
	return fmt.Sprintf("container %q is not running (%s)", e.ID, e.Status)
}

// Unwrap gives the kind.
func (e *NotRunningError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *NotRunningError) Hint() string { return "ctr-task start " + e.ID }

// Kill sends a signal to the init process of a running container, or with all to every process of it.
func Kill(ctx context.Context, d *state.Dir, ns, id string, sig unix.Signal, all bool) error {
	c, err := find(ctx, d, ns, id)
	if err != nil {
		return err
	}
	if err := kill(ctx, d, ns, c.ID, sig, all); err != nil {
		return fmt.Errorf("kill container %q: %w", c.ID, err)
	}
	return nil
}

func kill(ctx context.Context, d *state.Dir, ns, id string, sig unix.Signal, all bool) error {
	client, err := connect(ctx, d, ns, id)
	if err == nil {
		defer client.Close()
		short, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		err = client.Kill(short, &taskapi.KillRequest{ID: id, Signal: uint32(sig), All: all})
	}
	if err == nil || errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) {
		return err
	}
	return killDirectly(Dir(d, ns, id), sig, err)
}

// killDirectly signals init past a supervisor that does not answer.
func killDirectly(dir string, sig unix.Signal, cause error) error {
	var p taskdir.Process
	if ok, err := taskdir.Read(dir, taskdir.Init, &p); !ok || err != nil {
		return errors.Join(cause, err)
	}
	fd := p.Open()
	if fd < 0 {
		return cause
	}
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// Stop asks a container to end with its stop signal and kills it when it has not after grace. A
// container that does not run is stopped already. ok is false when it had to be killed.
func Stop(ctx context.Context, d *state.Dir, ns, id string, sig unix.Signal, grace time.Duration) error {
	c, err := find(ctx, d, ns, id)
	if err != nil {
		return err
	}
	up, err := running(Dir(d, ns, c.ID))
	if err != nil {
		return err
	}
	if !up {
		return Finish(ctx, d, ns, c.ID)
	}
	if sig == 0 {
		sig = stopSignal(c.StopSignal)
	}
	err = kill(ctx, d, ns, c.ID, sig, false)
	crash.Point("task.signalled")
	if frozen, _ := cgroup.Frozen(cgroupOf(d, Dir(d, ns, c.ID), ns, c.ID)); frozen && err == nil {
		err = Resume(ctx, d, ns, c.ID) // so that it can do what the signal asks for
	}
	// That the program is not found means that it has ended; the rest of the container may still have to.
	if err == nil || errdefs.IsNotFound(err) {
		short, cancel := context.WithTimeout(ctx, grace)
		err = awaitEnd(short, d, ns, c.ID)
		cancel()
	}
	if errdefs.IsNotFound(err) || err == nil {
		return nil // it ended, and may have been removed with it
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return killAndWait(ctx, d, ns, c.ID)
}

func stopSignal(name string) unix.Signal {
	if s, err := ParseSignal(name); err == nil {
		return s
	}
	return unix.SIGTERM
}

// endWithin bounds how long a killed task may take to end. A process that sits in the kernel, on a dead
// network filesystem say, ends later or never.
const endWithin = 30 * time.Second

// killAndWait ends a task that runs, also one whose supervisor is stopped or gone.
func killAndWait(ctx context.Context, d *state.Dir, ns, id string) error {
	dir := Dir(d, ns, id)
	var exit taskdir.Exit
	if ended, err := taskdir.Read(dir, taskdir.End, &exit); ended || err != nil {
		return err
	}
	up, err := taskdir.Live(dir)
	if err != nil {
		return err
	}
	if !up {
		return Finish(ctx, d, ns, id)
	}
	_ = kill(ctx, d, ns, id, unix.SIGKILL, true) // how it went shows in whether the task ends
	crash.Point("task.killed")
	short, cancel := context.WithTimeout(ctx, answerWithin)
	err = awaitEnd(short, d, ns, id)
	cancel()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// The supervisor does not do its part: end it too, and finish the task ourselves.
	var s taskdir.Supervisor
	if ok, err := taskdir.Read(dir, taskdir.Shim, &s); ok && err == nil {
		if fd := s.Open(); fd >= 0 {
			unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			unix.Close(fd)
		}
	}
	short, cancel = context.WithTimeout(ctx, endWithin)
	defer cancel()
	return awaitEnd(short, d, ns, id)
}

// awaitEnd waits until nobody has the task any more or its exit is recorded. Other than [Wait], it does
// not wait for one to begin.
func awaitEnd(ctx context.Context, d *state.Dir, ns, id string) error {
	dir := Dir(d, ns, id)
	for {
		var exit taskdir.Exit
		if ended, err := taskdir.Read(dir, taskdir.End, &exit); ended || err != nil {
			return err
		}
		if alive, err := taskdir.Live(dir); err != nil {
			return err
		} else if !alive {
			return Finish(ctx, d, ns, id)
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := awaitChange(ctx, dir); err != nil {
			return err
		}
	}
}

// Pause stops every process of a running container where it is; Resume lets them go on.
func Pause(ctx context.Context, d *state.Dir, ns, id string) error {
	return withClient(ctx, d, ns, id, "pause", func(id string, c *taskapi.Client) error {
		return c.Pause(ctx, &taskapi.PauseRequest{ID: id})
	})
}

// Resume lets the processes of a paused container go on.
func Resume(ctx context.Context, d *state.Dir, ns, id string) error {
	return withClient(ctx, d, ns, id, "resume", func(id string, c *taskapi.Client) error {
		return c.Resume(ctx, &taskapi.ResumeRequest{ID: id})
	})
}

// withClient finds a running container and calls fn with a connection to its supervisor.
func withClient(ctx context.Context, d *state.Dir, ns, id, verb string, fn func(string, *taskapi.Client) error) error {
	c, err := find(ctx, d, ns, id)
	if err != nil {
		return err
	}
	client, err := connect(ctx, d, ns, c.ID)
	if err != nil {
		return fmt.Errorf("%s container %q: %w", verb, c.ID, err)
	}
	return errors.Join(fn(c.ID, client), client.Close()) // the supervisor says the same of its errors
}

// connect dials the supervisor of a running task.
func connect(ctx context.Context, d *state.Dir, ns, id string) (*taskapi.Client, error) {
	dir := Dir(d, ns, id)
	up, err := running(dir)
	if err != nil {
		return nil, err
	}
	if !up {
		finishSoon(ctx, d, ns, id)
		info, err := Get(ctx, d, ns, id)
		if err != nil {
			return nil, err
		}
		return nil, &NotRunningError{ID: id, Status: string(info.Status)}
	}
	var s taskdir.Supervisor
	ok, err := taskdir.Read(dir, taskdir.Shim, &s)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("its supervisor is still starting: %w", errdefs.ErrUnavailable)
	}
	c, err := taskapi.Dial(ctx, s.Address)
	if err != nil {
		return nil, err
	}
	c.Namespace = ns
	return c, nil
}

// Processes lists the pids of a running container, as the host sees them.
func Processes(ctx context.Context, d *state.Dir, ns, id string) ([]int, error) {
	cg, err := runningCgroup(ctx, d, ns, id)
	if err != nil {
		return nil, err
	}
	return cgroup.Pids(cg)
}

// Measure reads what a running container uses.
func Measure(ctx context.Context, d *state.Dir, ns, id string) (cgroup.Stats, error) {
	cg, err := runningCgroup(ctx, d, ns, id)
	if err != nil {
		return cgroup.Stats{}, err
	}
	return cgroup.Measure(cg)
}

func runningCgroup(ctx context.Context, d *state.Dir, ns, id string) (string, error) {
	info, err := Get(ctx, d, ns, id)
	if err != nil {
		return "", err
	}
	if info.Status != Running && info.Status != Paused {
		return "", &NotRunningError{ID: info.ID, Status: string(info.Status)}
	}
	return cgroupOf(d, Dir(d, ns, info.ID), ns, info.ID), nil
}
