// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// The methods of this file and of apiexec.go are what containerd's API asks of tasks. They differ from the commands'
// where that API does: a task that has ended stays until it is deleted, and an exec as well.

// OpenTask is [Open] for a container that has a task; another is errdefs.ErrNotFound.
func OpenTask(ctx context.Context, d *state.Dir, ns, id string) (*Task, error) {
	t, err := Open(ctx, d, ns, id)
	if err == nil && t.inc == "" {
		return nil, t.noTask()
	}
	return t, err
}

// Given is what a client of the API gives a new task.
type Given struct {
	Rootfs  []taskapi.Mount // the container's root; none: the spec names it
	IO      taskdir.IO
	Options *taskapi.Any // for the shim; nil: those of the container's runtime
	Shim    string       // path of the shim; empty: that of the container's runtime
	// Checkpoint is a directory of criu's images, which Begin restores. Until then it has to stay.
	Checkpoint string
}

// CreateGiven is [Task.Create] with what a client of the API has given. A container that has a task, also one that has
// ended, is errdefs.ErrAlreadyExists.
func (t *Task) CreateGiven(ctx context.Context, g Given) error {
	v, err := t.decided(ctx)
	if err == nil && v.State != taskdir.None {
		err = t.hasTask()
	}
	if err == nil {
		err = t.Create(ctx, StartOptions{given: &g, Checkpoint: g.Checkpoint})
	}
	if _, raced := errors.AsType[*RunningError](err); raced {
		return t.hasTask()
	}
	return err
}

func (t *Task) hasTask() error {
	return fmt.Errorf("a task of container %q: %w", t.ID(), errdefs.ErrAlreadyExists)
}

func (t *Task) noTask() error {
	return fmt.Errorf("a task of container %q: %w", t.ID(), errdefs.ErrNotFound)
}

// givenIO gives what the record of a new task says of its client: the streams, which are nil for the container's log, and
// the shim. Where nobody but a policy or a command starts the container again, the label of containerd's restart monitor
// tells where its output goes.
func (t *Task) givenIO(o StartOptions) (io *taskdir.IO, shim string) {
	if o.given != nil {
		return &o.given.IO, o.given.Shim
	}
	if uri := t.Container.Labels[container.LabelRestartLog]; uri != "" {
		return &taskdir.IO{Stdout: uri}, ""
	}
	return nil, ""
}

// givenOptions are the options that a client has given the task or, with the container, its runtime; nil: none.
func (t *Task) givenOptions(o StartOptions) *taskapi.Any {
	if o.given != nil && o.given.Options != nil && len(o.given.Options.Value) > 0 {
		return o.given.Options
	}
	if a := t.Container.Runtime.Options; a != nil {
		return &taskapi.Any{TypeURL: a.Type, Value: a.Value}
	}
	return nil
}

// findRuntime finds what runs a new task.
func (t *Task) findRuntime(o StartOptions) (runtime, error) {
	if o.given != nil && o.given.Shim != "" {
		return findShim(o.given.Shim)
	}
	name := t.Container.Runtime.Name
	if name == runcShim && container.RestartOf(t.Container.Labels).Policy != "" {
		name = "" // beside containerd, whose shim leaves that to a monitor in the daemon
	}
	return findRuntime(name, o.Shim)
}

// settled is view of a task that has somebody or has ended: an orphan is ended first.
func (t *Task) settled(ctx context.Context) (taskdir.View, error) {
	v, err := t.view(ctx)
	if err == nil && v.State == taskdir.Orphaned {
		if err = t.rest(ctx); err == nil {
			v, err = t.view(ctx)
		}
	}
	return v, err
}

// decided is settled for what is about to act on the task. A creation outlives its creator: one whose creator has died is
// waited for, as long as a supervisor may take, until there is a task or none.
func (t *Task) decided(ctx context.Context) (taskdir.View, error) {
	return t.settledPast(ctx, t.patience(), func(v taskdir.View) bool { return v.State == taskdir.Creating && !v.Starting })
}

// Settle ends the task if it is an orphan, and waits for a creation whose creator has died, until there is a task or none. It
// waits as long as a supervisor may take.
func (t *Task) Settle(ctx context.Context) error {
	_, err := t.decided(ctx)
	return err
}

// settledPast is settled once the task is past what it is to wait for, or some time has gone.
func (t *Task) settledPast(ctx context.Context, within time.Duration, waits func(taskdir.View) bool) (taskdir.View, error) {
	for end := time.Now().Add(within); ; {
		v, err := t.settled(ctx)
		if err != nil || !waits(v) || time.Now().After(end) {
			return v, err
		}
		if err := pause(ctx, pollEvery/10); err != nil {
			return v, err
		}
	}
}

// ProcessState is a process as a client of the API is told of it.
type ProcessState struct {
	ContainerID string
	ExecID      string // empty: the first process of the task
	PID         int    // 0: not started, or not known any more
	Status      taskapi.Status
	IO          taskdir.IO   // all empty: the container's log, which no client can open
	Exit        taskdir.Exit // of taskapi.StatusStopped
}

// State tells what the task (execID empty) or an exec does. What is not there, and a task that is still being created, is
// errdefs.ErrNotFound. An orphan is ended. A task that is created with an input is waited for, for up to 5 s: a client whose
// input has ended asks for the task to have that closed, asks once, and may do so before its Create is answered.
func (t *Task) State(ctx context.Context, execID string) (ProcessState, error) {
	v, err := t.settledPast(ctx, answerWithin, awaitsInput)
	if err != nil {
		return ProcessState{}, err
	}
	return t.stateOf(ctx, v, execID)
}

func awaitsInput(v taskdir.View) bool {
	return v.State == taskdir.Creating && v.Task.IO != nil && v.Task.IO.Stdin != ""
}

// stateOf is State of a task that has just been looked at.
func (t *Task) stateOf(ctx context.Context, v taskdir.View, execID string) (ProcessState, error) {
	if v.State == taskdir.None || v.State == taskdir.Creating {
		return ProcessState{}, t.noTask()
	}
	if execID != "" {
		return t.execState(ctx, v, execID)
	}
	return t.initState(v), nil
}

func (t *Task) initState(v taskdir.View) ProcessState {
	s := ProcessState{ContainerID: t.ID(), PID: v.Init.PID, Status: taskapi.StatusRunning}
	if v.Task.IO != nil {
		s.IO = *v.Task.IO
	}
	switch v.State {
	case taskdir.Created:
		s.Status = taskapi.StatusCreated
	case taskdir.Stopped:
		s.Status, s.Exit = taskapi.StatusStopped, v.Exit
	default:
		if frozen, err := cgroup.Frozen(t.cgroup(v)); err == nil && frozen {
			s.Status = taskapi.StatusPaused
		}
	}
	return s
}

// States lists those tasks of a namespace whose containers are wanted, by container; see [Task.State]. The others are not
// looked at, and none is waited for.
func States(ctx context.Context, d *state.Dir, ns string, want func(id string) bool) (all []ProcessState, err error) {
	var tasks []*Task
	err = d.View(ctx, func(tx *state.Tx) error {
		tasks = nil
		for c, err := range container.All(tx, ns) {
			if err != nil {
				return err
			}
			if want(c.ID) {
				tasks = append(tasks, &Task{Container: c, Namespace: ns, d: d})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		if err := t.refresh(); err != nil {
			return nil, err
		}
		v, err := t.settled(ctx)
		if err != nil {
			return nil, err
		}
		s, err := t.stateOf(ctx, v, "")
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// Begin starts the program of a created task.
func (t *Task) Begin(ctx context.Context) error {
	v, err := t.decided(ctx)
	switch {
	case err != nil:
	case v.State == taskdir.None:
		err = t.noTask()
	case v.State != taskdir.Created || v.Starting:
		err = fmt.Errorf("it is %s: %w", v.State, errdefs.ErrFailedPrecondition)
	default:
		err = t.begin(ctx)
	}
	if err != nil {
		return fmt.Errorf("start container %q: %w", t.ID(), err)
	}
	return nil
}

// SignalProcess sends a signal to the first process of the task (execID empty), to an exec or, with all, to every process
// of the task. A process that has ended is errdefs.ErrNotFound. Unlike [Task.Kill] it leaves the restart policy alone,
// unless the container's labels say that it is stopped on purpose.
func (t *Task) SignalProcess(ctx context.Context, execID string, sig unix.Signal, all bool) error {
	v, err := t.decided(ctx)
	if err != nil {
		return err
	}
	if t.Container.Labels[container.LabelRestartStopped] == "true" {
		t.markStopping()
	}
	switch {
	case v.State == taskdir.None:
		return t.noTask()
	case v.State == taskdir.Stopped:
		return fmt.Errorf("container %q has ended: %w", t.ID(), errdefs.ErrNotFound)
	case execID == "":
		err = t.deliver(ctx, sig, all)
	default:
		err = t.call(ctx, answerWithin, func(ctx context.Context, c *taskapi.Client) error {
			return c.Kill(ctx, &taskapi.KillRequest{ID: t.ID(), ExecID: execID, Signal: uint32(sig), All: all})
		})
	}
	if _, ended := errors.AsType[*NotRunningError](err); ended {
		return fmt.Errorf("container %q has ended: %w", t.ID(), errdefs.ErrNotFound)
	}
	return err
}

// WaitProcess gives the exit of the task (execID empty) or of an exec: at once when it has ended, else when it does. What
// is not there is errdefs.ErrNotFound; one that is deleted while it is waited for gives the exit it had.
func (t *Task) WaitProcess(ctx context.Context, execID string) (taskdir.Exit, error) {
	if execID != "" {
		return t.waitExec(ctx, execID)
	}
	return t.waitFor(ctx, false)
}

// Delete deletes a task that has ended, or whose init waits, which it ends first. One that runs is
// errdefs.ErrFailedPrecondition. One that waits for its next restart is not started again.
func (t *Task) Delete(ctx context.Context) (ProcessState, error) {
	s, err := t.delete(ctx)
	if err != nil {
		return s, fmt.Errorf("delete the task of container %q: %w", t.ID(), err)
	}
	return s, nil
}

func (t *Task) delete(ctx context.Context) (s ProcessState, err error) {
	v, err := t.decided(ctx)
	switch {
	case err != nil:
		return s, err
	case v.State == taskdir.None:
		return s, t.noTask()
	case v.State == taskdir.Created && !v.Starting:
		err = t.End(ctx)
	case v.State == taskdir.Stopped:
		err = t.seeOff(ctx, v)
	default:
		err = fmt.Errorf("it is %s: %w", v.State, errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = t.awaitSupervisor(ctx, true)
	}
	if err != nil {
		return s, err
	}
	l, err := t.lock(ctx)
	if err != nil {
		return s, err
	}
	last := t.lastSupervisor()
	v, err = t.settle()
	switch {
	case err != nil:
	case v.State == taskdir.None:
		err = t.noTask()
	case v.InUse():
		err = &RunningError{ID: t.ID()} // it could not be ended
	default:
		s = t.initState(v)
		// First, so that a deletion that is cut short is told twice and not never.
		_ = t.d.Journal().Append(t.Namespace, event.TaskDelete{
			ContainerID: t.ID(), ID: t.ID(), Pid: uint32(v.Init.PID), ExitStatus: uint32(v.Exit.Status), ExitedAt: v.Exit.ExitedAt,
		})
		err = t.discardDir()
	}
	err = errors.Join(err, l.Release())
	t.detached(ctx)
	t.clearAfter(last)
	return s, err
}

// UpdateNow changes the limits of the running task as a client of the API asks for it: a message with the JSON of OCI
// linux resources. Unlike [Task.Update] it leaves the container's spec alone.
func (t *Task) UpdateNow(ctx context.Context, r *taskapi.UpdateTaskRequest) error {
	r.ID = t.ID()
	return t.ask(ctx, func(ctx context.Context, c *taskapi.Client) error { return c.Update(ctx, r) })
}

// Stats gives what the task uses, as its shim tells it.
func (t *Task) Stats(ctx context.Context) (stats *taskapi.Any, err error) {
	err = t.ask(ctx, func(ctx context.Context, c *taskapi.Client) error {
		r, err := c.Stats(ctx, &taskapi.StatsRequest{ID: t.ID()})
		if err == nil {
			stats = r.Stats
		}
		return err
	})
	return stats, err
}

// Pids lists the processes of the task, as its shim tells them.
func (t *Task) Pids(ctx context.Context) (all []taskapi.ProcessInfo, err error) {
	err = t.ask(ctx, func(ctx context.Context, c *taskapi.Client) error {
		r, err := c.Pids(ctx, &taskapi.PidsRequest{ID: t.ID()})
		if err == nil {
			all = r.Processes
		}
		return err
	})
	return all, err
}

// ResizeProcess sets the size of the terminal of the task (execID empty) or of an exec, in characters.
func (t *Task) ResizeProcess(ctx context.Context, execID string, width, height uint32) error {
	return t.ask(ctx, func(ctx context.Context, c *taskapi.Client) error {
		return c.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: t.ID(), ExecID: execID, Width: width, Height: height})
	})
}

// CloseStdin ends the input of the task (execID empty) or of an exec.
func (t *Task) CloseStdin(ctx context.Context, execID string) error {
	return t.ask(ctx, func(ctx context.Context, c *taskapi.Client) error {
		return c.CloseIO(ctx, &taskapi.CloseIORequest{ID: t.ID(), ExecID: execID, Stdin: true})
	})
}

// ask makes one call of the task's shim.
func (t *Task) ask(ctx context.Context, fn func(context.Context, *taskapi.Client) error) error {
	return t.call(ctx, t.patience(), fn)
}

// findShim finds a shim by its path.
func findShim(path string) (r runtime, err error) {
	if !filepath.IsAbs(path) {
		return r, fmt.Errorf("shim %q: not an absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	if err := executable(path); err != nil {
		return r, fmt.Errorf("shim %q: %w", path, err)
	}
	r.init, err = Beside(ourShim)
	r.shim, r.foreign = path, filepath.Base(path) != ourShim
	if r.foreign {
		err = nil // only a container that wants an init of ours needs it
	}
	return r, err
}

const (
	maxInfo = 4 << 20  // what a shim tells of itself, in bytes
	maxSaid = 64 << 10 // what of its stderr is looked at
)

// bounded keeps what is written to it, but no more than most bytes. What comes after that is dropped or, with refuse, an
// error of the write.
type bounded struct {
	kept   []byte
	most   int
	refuse bool
	over   bool // it was not all
}

// Write keeps what fits.
func (b *bounded) Write(p []byte) (int, error) {
	fits := min(len(p), b.most-len(b.kept))
	b.kept = append(b.kept, p[:fits]...)
	if b.over = b.over || fits < len(p); b.over && b.refuse {
		return fits, errTooMuch
	}
	return len(p), nil
}

var errTooMuch = fmt.Errorf("it says more than %d bytes: %w", maxInfo, errdefs.ErrResourceExhausted)

// RuntimeInfo asks the shim of a runtime, which is named as in a container's record and is containerd's default when name is
// empty, what it can do. The answer is an encoded containerd.types.RuntimeInfo. options may be nil.
func RuntimeInfo(ctx context.Context, name string, options *taskapi.Any) ([]byte, error) {
	r, err := findRuntime(cmp.Or(name, runcShim), "")
	if filepath.IsAbs(name) {
		r, err = findShim(name)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.shim, "-info")
	if options != nil {
		cmd.Stdin = bytes.NewReader(taskapi.Marshal(options))
	}
	answer, said := &bounded{most: maxInfo, refuse: true}, &bounded{most: maxSaid}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = answer, said, time.Second
	err = cmd.Run()
	if answer.over {
		err = errTooMuch // and not the signal that this has ended it by
	}
	if err != nil {
		return nil, fmt.Errorf("shim %s: tell what it can do: %w: %.1000s", r.shim, err, bytes.TrimSpace(said.kept))
	}
	return answer.kept, nil
}
