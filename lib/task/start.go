// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// StartOptions are how a task is started.
type StartOptions struct {
	// Client says that the caller stays until the end: its death ends the task of a transient container, and
	// the input of any.
	Client bool
	// ConsoleSize is that of the terminal when the program starts; nil: 0 rows and columns.
	ConsoleSize *specs.Box
	// Cgroups says where container and supervisor live.
	Cgroups Cgroups
	// Checkpoint is a directory of criu's images from which the processes are restored; empty: the program is started.
	Checkpoint string
	// Early says that the caller is making the sandbox of the container, which need not be ready.
	Early bool
	// Shim is the path of ctr-shim; empty: beside this program, else on PATH.
	Shim string

	after *taskdir.View // the task that this one follows by the restart policy
	given *Given        // what a client of the API has given
}

// Start runs a container that is created or has stopped; a task whose init waits is let go on. What keeps the
// program from running is a [*ProgramError]. One that runs already is errdefs.ErrFailedPrecondition. When it
// fails, a task that it has made is gone again.
func (t *Task) Start(ctx context.Context, o StartOptions) error {
	defer t.d.EmptyTrash() // the task before
	v, err := t.view(ctx)
	if err == nil && v.State == taskdir.Created && !v.Starting {
		if err = t.begin(ctx); err != nil {
			return fmt.Errorf("start container %q: %w", t.ID(), err)
		}
		return nil
	}
	var starting *lock.Held
	if err == nil {
		starting, err = t.create(ctx, o)
	}
	if err == nil {
		err = t.beginAfter(ctx, starting)
	}
	if err != nil {
		return fmt.Errorf("start container %q: %w", t.ID(), err)
	}
	if o.after != nil || t.stopping() {
		return nil
	}
	return t.meantToRun(ctx, true)
}

// Create makes a task of a container that has none or has stopped: its processes are set up, and init waits
// for [Task.Start], as long as it must and whoever lives.
func (t *Task) Create(ctx context.Context, o StartOptions) error {
	defer t.d.EmptyTrash() // the task before
	starting, err := t.create(ctx, o)
	if err == nil {
		err = starting.Release()
	}
	if err != nil {
		return fmt.Errorf("create a task of container %q: %w", t.ID(), err)
	}
	return nil
}

// create makes a task and gives the lock that says that it is being started.
func (t *Task) create(ctx context.Context, o StartOptions) (*lock.Held, error) {
	t.early = o.Early
	if err := t.awaitSupervisor(ctx, true); err != nil {
		return nil, err
	}
	l, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	starting, err := t.reserve(ctx, o)
	if err = errors.Join(err, l.Release()); err != nil {
		return nil, err
	}
	return starting, t.launch(ctx, o, starting)
}

// reserve makes a new incarnation, under the container's lock, and marks it as being started by this process.
func (t *Task) reserve(ctx context.Context, o StartOptions) (*lock.Held, error) {
	now, err := t.present()
	if err != nil {
		return nil, err
	}
	if o.after != nil && (now.inc != t.inc || now.stopping()) {
		return nil, fmt.Errorf("it has been started or stopped meanwhile: %w", errdefs.ErrFailedPrecondition)
	}
	v, err := now.settle()
	if err != nil {
		return nil, err
	}
	if o.given != nil && v.State == taskdir.Stopped {
		return nil, t.hasTask()
	}
	if v.InUse() {
		return nil, &RunningError{ID: t.ID()}
	}
	if err := now.unmountForeign(); err != nil {
		return nil, err
	}
	// Whoever mounts the snapshot looks for a task under the same lock.
	if !t.Container.Transient {
		if err := t.notMounted(ctx); err != nil {
			return nil, err
		}
	}
	inc := taskdir.NewIncarnation()
	// Under another name until it is marked: whoever looks never sees a task that nobody has.
	made := filepath.Join(t.base(), "."+string(inc))
	var starting *lock.Held
	err = os.MkdirAll(filepath.Join(made, taskdir.Rootfs), 0o711)
	if err == nil {
		starting, err = lock.Hold(filepath.Join(made, taskdir.StartLock))
	}
	if err != nil {
		return nil, errors.Join(err, t.unmake(made))
	}
	// With a start that is on its way in it: in between there is no task.
	if err := now.trashOthers(made); err != nil {
		return nil, errors.Join(err, starting.Release(), t.unmake(made))
	}
	crash.Point("task.cleared")
	owner := taskdir.Kept
	switch {
	case t.Container.Transient && o.Client:
		owner = taskdir.Client
	case t.Container.Transient:
		owner = taskdir.ByShim
	}
	io, shim := t.givenIO(o)
	err = errors.Join(taskdir.ReserveExit(made), taskdir.Write(made, taskdir.Record, taskdir.Task{
		Incarnation: inc, Namespace: t.Namespace, ID: t.ID(), UID: t.Container.UID, Owner: owner,
		Cgroup: t.ownCgroup(), Restart: t.restart(o.after), Networked: t.Container.Network != nil, IO: io, Shim: shim, Created: time.Now().UTC(),
	}))
	if o.Client && (t.Container.Transient || t.Container.Stdin) && err == nil {
		t.client, err = lock.Hold(filepath.Join(made, taskdir.ClientLock))
	}
	bundle := ""
	if io != nil && err == nil {
		bundle, err = t.makeBundle(made, o)
	}
	crash.Point("task.marked")
	if err == nil {
		err = os.Rename(made, filepath.Join(t.base(), string(inc)))
	}
	if err != nil {
		return nil, errors.Join(err, starting.Release(), t.Close(), t.unmake(made))
	}
	t.inc = inc
	if bundle != "" {
		if err := t.linkBundle(filepath.Join(string(inc), bundle)); err != nil {
			return nil, errors.Join(err, starting.Release(), t.Close(), t.discardDir())
		}
	}
	if t.client != nil {
		t.client.Moved(filepath.Join(t.Dir(), taskdir.ClientLock))
	}
	crash.Point("task.directory")
	return starting, nil
}

// unmake takes away a task directory that has not got its name.
func (t *Task) unmake(made string) error {
	err := t.d.Trash(made)
	os.Remove(t.base()) // when nothing else is in it
	return err
}

// launch fills the reserved directory, starts the supervisor and has it create the task. When it fails the
// task is gone again, and starting is let go.
func (t *Task) launch(ctx context.Context, o StartOptions, starting *lock.Held) (err error) {
	crash.Point("task.reserved")
	defer t.closeGiven()
	var (
		shim *supervisor
		r    runtime
	)
	defer func() {
		if err == nil {
			return
		}
		err = t.whyEnded(err)
		if shim != nil {
			t.quit(shim)
		}
		if v, e := taskdir.Look(t.Dir()); e == nil && v.Supervisor.Foreign {
			_ = t.dismiss(context.WithoutCancel(ctx), v)
		}
		if r.foreign {
			t.endStrays()
		}
		starting.Release()
		err = errors.Join(err, t.discard(ctx))
	}()
	if o.after != nil {
		if err = t.countRestart(ctx, o.after); err != nil {
			return err
		}
	}
	if r, err = t.findRuntime(o); err != nil {
		return err
	}
	if r.foreign && container.RestartOf(t.Container.Labels).Policy != "" {
		return fmt.Errorf("shim %s keeps no restart policy, ctr-shim does: %w", r.shim, errdefs.ErrInvalidArgument)
	}
	req, shared, err := t.bundle(ctx, r, o)
	if err != nil {
		return err
	}
	crash.Point("task.bundle")
	adopted := func() error { return nil }
	if t.inSandbox() && !r.foreign {
		go cgroup.Hasten() // passes while the supervisor starts the engine, which moves the process
		err = t.enterSandbox(ctx)
	} else if shim, err = t.spawn(ctx, r, req.Options); err == nil {
		crash.Point("task.spawned")
		if err = t.meet(ctx, r, shim); err == nil {
			adopted = t.adopt(ctx, r, shim.pid(t.Dir()))
		}
	}
	if err != nil {
		return err
	}
	var made *taskapi.CreateTaskResponse
	err = t.bounded(ctx, t.patience()+t.hooks, func(ctx context.Context) error {
		made, err = t.api.Create(ctx, req)
		return err
	})
	if e := adopted(); err == nil && e != nil {
		return fmt.Errorf("shim: %w", e)
	}
	if err == nil {
		err = checkJoined(shared)
	}
	if err != nil {
		return programError(err)
	}
	t.pid = int(made.Pid)
	if r.foreign {
		if err := t.recordCreated(o.Checkpoint != ""); err != nil {
			return err
		}
		if t.Container.Transient {
			if err := t.keep(); err != nil {
				return err
			}
		}
	}
	if o.Checkpoint == "" { // else there is nothing yet to attach, and begin does
		if err := t.attach(ctx); err != nil {
			return err
		}
	}
	crash.Point("task.created")
	return nil
}

// meet connects to a supervisor that this process has started.
func (t *Task) meet(ctx context.Context, r runtime, shim *supervisor) error {
	err := t.dial(ctx, shim.Address)
	if err == nil && r.foreign {
		err = t.introduce(ctx, shim.Bootstrap)
	}
	if err != nil {
		return fmt.Errorf("shim %s: %w", r.shim, err)
	}
	return nil
}

// quit ends a supervisor whose task is taken back. One that can ends by itself, with all that it has started;
// SIGKILL would leave its engine to die after it.
func (t *Task) quit(s *supervisor) {
	if t.api != nil {
		short, cancel := context.WithTimeout(context.Background(), silentAfter)
		_ = t.api.Shutdown(short, &taskapi.ShutdownRequest{ID: t.ID(), Now: true})
		cancel()
	}
	if !s.awaitEnd() {
		s.kill()
	}
}

// readHooks finds out what the hooks may take of a task that another handle has made. Few have any. A foreign shim's bundle is elsewhere;
// it has the usual time.
func (t *Task) readHooks() error {
	if t.pid != 0 {
		return nil
	}
	hooks, err := taskdir.Hooks(t.bundleDir())
	t.hooks = ask.HookTime(hooks)
	return err
}

// begin lets the waiting init process become the program.
func (t *Task) begin(ctx context.Context) error {
	within := t.patience()
	restores, err := t.ToRestore()
	if err == nil {
		err = t.readHooks()
	}
	if err != nil {
		return err
	}
	if restores {
		within = checkpointTime
	}
	within += t.hooks
	err = t.call(ctx, within, func(ctx context.Context, c *taskapi.Client) error {
		started, err := c.Start(ctx, &taskapi.StartRequest{ID: t.ID()})
		if err == nil {
			t.pid = int(started.Pid)
		}
		return err
	})
	if err != nil {
		return programError(err)
	}
	if err := t.recordStarted(ctx); err != nil {
		return err
	}
	if restores {
		crash.Point("task.restored")
		if err := t.attach(ctx); err != nil {
			return err
		}
	}
	crash.Point("task.started")
	return nil
}

// beginAfter starts a task that this handle has created, and takes it back when that fails. One that somebody has ended
// before the answer came has been started all the same; of one that was removed with its container the error is an
// [*EndedError].
func (t *Task) beginAfter(ctx context.Context, starting *lock.Held) error {
	since, err := t.d.Journal().Last()
	if err != nil {
		since = math.MaxUint64 // a start does not depend on the journal
	}
	err = t.begin(ctx)
	ended := false
	if err != nil {
		if ended, err = t.endedMeanwhile(ctx, since, err); !ended {
			err = t.whyEnded(err)
		}
	}
	if e := starting.Release(); err == nil {
		return e
	}
	if ended {
		return errors.Join(err, t.Close())
	}
	return errors.Join(err, t.discard(ctx))
}

// EndedError says that a container was removed, by somebody else, while it was being started. Its kind is
// errdefs.ErrAborted.
type EndedError struct {
	Exit taskdir.Exit // of its task
}

// Error tells the status.
func (e *EndedError) Error() string {
	return fmt.Sprintf("somebody removed it while it was being started; it ended with status %d", e.Exit.Status)
}

// Unwrap gives the kind.
func (e *EndedError) Unwrap() error { return errdefs.ErrAborted }

// endedMeanwhile tells whether somebody has ended the task on purpose while it was being started, which failed with err,
// and gives the error of the start then: none when its exit is recorded. since is the last event before.
func (t *Task) endedMeanwhile(ctx context.Context, since uint64, err error) (bool, error) {
	if t.stopping() {
		if e := t.awaitEndFor(ctx, answerWithin); e != nil {
			return false, err
		}
	}
	v, e := taskdir.Look(t.Dir())
	switch {
	case e != nil:
		return false, err
	case v.State == taskdir.Stopped:
		stopped := t.stopping()
		if stopped {
			err = nil
		}
		return stopped, err
	case v.State != taskdir.None:
		return false, err
	}
	exit, found := t.exitEvent(ctx, since)
	if !found {
		exit.Status = killedStatus // its event was lost; whoever removes a container kills it first
	}
	return true, &EndedError{exit}
}

// whyEnded gives the reason of a start that failed and is about to be taken back: that somebody has ended the task
// meanwhile, which the engine knows nothing of; otherwise err.
func (t *Task) whyEnded(err error) error {
	if _, e := os.Lstat(t.Dir()); errors.Is(e, os.ErrNotExist) {
		return fmt.Errorf("somebody removed it while it was being started: %w", errdefs.ErrAborted)
	}
	if !t.stopping() {
		if silent, ok := errors.AsType[*SilentError](err); ok {
			silent.Ended = true
		}
		return err
	}
	return fmt.Errorf("somebody stopped it while it was being started: %w", errdefs.ErrAborted)
}

// discard takes back a start that failed: this incarnation, and the container too when it is transient.
func (t *Task) discard(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	crash.Point("task.discard")
	err := t.End(ctx)
	if t.Container.Transient {
		err = errors.Join(err, t.RemoveEnded(ctx))
	} else {
		err = errors.Join(err, t.discardEnded(ctx))
	}
	return errors.Join(err, t.Close())
}

// discardEnded removes the directory of the task that is meant. One that has not ended is a [*RunningError].
func (t *Task) discardEnded(ctx context.Context) error {
	if err := t.awaitSupervisor(ctx, true); err != nil {
		return err
	}
	l, err := t.lock(ctx)
	if err != nil {
		return err
	}
	last := t.lastSupervisor()
	v, err := t.settle()
	if err == nil && v.InUse() {
		err = &RunningError{ID: t.ID()} // it could not be ended
	}
	if err == nil {
		err = t.discardDir()
	}
	err = errors.Join(err, l.Release())
	t.detached(ctx)
	t.clearAfter(last)
	return err
}
