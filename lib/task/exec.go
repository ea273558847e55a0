// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// ExecOptions are one more program to run in a running container.
type ExecOptions struct {
	Args           []string
	Env, EnvFiles  []string
	Workdir        string // empty: the container's
	User           string // empty: the container's
	Privileged     bool   // all capabilities
	TTY            bool
	ConsoleSize    *specs.Box // of the terminal when the program starts; nil: 0 rows and columns
	Stdin          io.Reader  // nil: /dev/null
	Stdout, Stderr io.Writer  // with TTY all goes to Stdout; nil: its output is thrown away
	Detach         bool       // do not wait for its end; it has no output then
	Kill           bool       // kill it when ctx ends; otherwise it runs on then, without a client
	// Started, when set, is called with the running exec, which can then be resized and signalled. Ended is
	// called when it has ended and what is left of its output is being written.
	Started func(*ExecProcess)
	Ended   func()
}

// PausedError says that a container must be resumed first. Its kind is errdefs.ErrFailedPrecondition.
type PausedError struct{ ID string }

// Error names the container.
func (e *PausedError) Error() string { return fmt.Sprintf("container %q is paused", e.ID) }

// Unwrap gives the kind.
func (e *PausedError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *PausedError) Hint() string { return "ctr-task resume " + e.ID }

// ExecProcess is an exec: a program that was started beside the container's own.
type ExecProcess struct {
	ExecID string
	PID    int
	t      *Task
	dir    string
	// foreign says that the supervisor is not ours: it copies the streams, and goes on with that after it has answered.
	foreign bool
}

// Resize sets the size of the exec's terminal.
func (p *ExecProcess) Resize(ctx context.Context, width, height uint16) error {
	return p.t.call(ctx, answerWithin, func(ctx context.Context, c *taskapi.Client) error {
		return c.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: p.t.ID(), ExecID: p.ExecID, Width: uint32(width), Height: uint32(height)})
	})
}

// Signal sends it a signal.
func (p *ExecProcess) Signal(ctx context.Context, sig unix.Signal) error {
	return p.t.call(ctx, answerWithin, func(ctx context.Context, c *taskapi.Client) error {
		return c.Kill(ctx, &taskapi.KillRequest{ID: p.t.ID(), ExecID: p.ExecID, Signal: uint32(sig)})
	})
}

// Exec runs a program in a running container and gives its exit, or the zero Exit with Detach. What keeps
// the program from running is a [*ProgramError]. A program whose output cannot be written is killed. When ctx
// ends before the program runs, nothing of it stays.
func (t *Task) Exec(ctx context.Context, o ExecOptions) (taskdir.Exit, error) {
	exit, err := t.exec(ctx, o)
	if err != nil {
		return exit, fmt.Errorf("exec in container %q: %w", t.ID(), err)
	}
	return exit, nil
}

func (t *Task) exec(ctx context.Context, o ExecOptions) (exit taskdir.Exit, err error) {
	if _, err := t.connect(ctx); err != nil {
		return exit, err
	}
	process, err := t.execProcess(ctx, o)
	if err != nil {
		return exit, err
	}
	var shim taskdir.Supervisor
	if _, err := taskdir.Read(t.Dir(), taskdir.Shim, &shim); err != nil {
		return exit, err
	}
	p := &ExecProcess{ExecID: strings.ToLower(rand.Text()[:12]), t: t, foreign: shim.Foreign}
	if err := p.makeDir(); err != nil {
		return exit, err
	}
	crash.Point("task.exec-directory")
	// As long as we live, and do not leave the exec to itself, it is ours to delete.
	alive, err := lock.Hold(filepath.Join(p.dir, taskdir.ClientLock))
	if err != nil {
		return exit, err
	}
	release := sync.OnceValue(alive.Release)
	defer release()
	if !o.Detach {
		defer os.RemoveAll(p.dir)
	}
	s, err := openStreams(p.dir, o)
	if err != nil {
		return exit, err
	}
	defer s.close()
	if err := p.start(ctx, o, process, s); err != nil {
		return exit, err
	}
	// From the release on the supervisor deletes it, if it has not ended yet.
	defer func() { err = errors.Join(err, release(), p.delete(ctx)) }()
	if o.Started != nil {
		o.Started(p)
	}
	if o.Detach {
		return exit, nil
	}
	if ctx.Err() != nil {
		p.kill()
		return exit, context.Cause(ctx)
	}
	exit, err = s.run(ctx, p, o)
	// Not: when ctx has ended. The supervisor knows the deadline too, and its clock may be the first to say so.
	if o.Kill && err != nil {
		p.kill()
	}
	return exit, err
}

// makeDir makes the exec's directory. The directory of the task is not made again: one that has just been removed
// would look like a task that nobody has.
func (p *ExecProcess) makeDir() error {
	all := filepath.Join(p.t.Dir(), taskdir.Execs)
	if err := os.Mkdir(all, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	p.dir = filepath.Join(all, p.ExecID)
	return os.Mkdir(p.dir, 0o700)
}

// kill ends the exec and waits for that, within a bound.
func (p *ExecProcess) kill() {
	_ = p.Signal(context.Background(), unix.SIGKILL) // it may have ended
	_ = p.t.call(context.Background(), answerWithin, func(ctx context.Context, c *taskapi.Client) error {
		_, err := c.Wait(ctx, &taskapi.WaitRequest{ID: p.t.ID(), ExecID: p.ExecID})
		return err
	})
}

// start adds the exec to the container and runs it. When it fails, or ctx ends meanwhile, nothing of it runs.
func (p *ExecProcess) start(ctx context.Context, o ExecOptions, process *taskapi.Any, s *streams) error {
	t := p.t
	// The answer is waited for also when ctx ends: only then is it known what there is to take back.
	calm := context.WithoutCancel(ctx)
	req := &taskapi.ExecProcessRequest{
		ID: t.ID(), ExecID: p.ExecID, Terminal: o.TTY, Spec: process, Stdin: s.stdin, Stdout: s.name(s.stdout), Stderr: s.name(s.stderr),
	}
	err := t.call(calm, t.patience(), func(ctx context.Context, c *taskapi.Client) error { return c.Exec(ctx, req) })
	if err != nil {
		return err
	}
	crash.Point("task.exec-added")
	if ctx.Err() == nil {
		err = t.call(calm, t.patience(), func(ctx context.Context, c *taskapi.Client) error {
			started, err := c.Start(ctx, &taskapi.StartRequest{ID: t.ID(), ExecID: p.ExecID})
			if err == nil {
				p.PID = int(started.Pid)
			}
			return err
		})
	}
	if err == nil && ctx.Err() == nil {
		crash.Point("task.exec-started")
		return nil
	}
	if p.PID != 0 {
		p.kill()
	}
	_ = p.delete(calm)
	if err == nil {
		return context.Cause(ctx)
	}
	if v, _ := taskdir.Look(t.Dir()); v.State == taskdir.Running {
		if frozen, _ := cgroup.Frozen(t.cgroup(v)); frozen {
			return &PausedError{t.ID()}
		}
	}
	return programError(err)
}

// delete has the supervisor forget the exec. One that runs on is forgotten when it ends.
func (p *ExecProcess) delete(ctx context.Context) error {
	_ = p.t.call(context.WithoutCancel(ctx), answerWithin, func(ctx context.Context, c *taskapi.Client) error {
		_, err := c.Delete(ctx, &taskapi.DeleteRequest{ID: p.t.ID(), ExecID: p.ExecID})
		return err
	})
	return nil
}

// execProcess makes the OCI process of an exec from the container's own.
func (t *Task) execProcess(ctx context.Context, o ExecOptions) (*taskapi.Any, error) {
	var s *specs.Spec
	var dirs []string
	var sn *snapshot.Snapshotter
	var chain []snapshot.Info
	err := t.d.View(ctx, func(tx *state.Tx) (err error) {
		if s, err = t.readSpec(tx); err != nil {
			return err
		}
		if sn, err = t.snapshots(); err == nil {
			chain, err = sn.Chain(tx, t.Namespace, t.Container.SnapshotKey)
		}
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) { // none of ours
			chain = nil
			dirs, err = t.clientRoot()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(chain) > 0 {
		trees, err := sn.Open(ctx, t.d, chain)
		if errdefs.IsUnavailable(err) { // its snapshotter's server is away, and the container runs on
			trees = &snapshot.Trees{}
			trees.Dirs, err = t.clientRoot()
		}
		if err != nil {
			return nil, err
		}
		defer trees.Close()
		dirs = trees.Dirs
	}
	p, err := spec.Exec(ctx, s, spec.ExecOptions{
		Args: o.Args, Env: o.Env, EnvFiles: o.EnvFiles, Workdir: o.Workdir, User: o.User, Privileged: o.Privileged, TTY: o.TTY,
		Open: spec.LayerFS(dirs).Open, ConsoleSize: o.ConsoleSize,
	})
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(p)
	return &taskapi.Any{TypeURL: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data}, err
}

// clientRoot is the root of a container as its first process sees it, for one whose client has mounted it.
func (t *Task) clientRoot() ([]string, error) {
	v, err := taskdir.Look(t.Dir())
	if err != nil || v.Init.PID == 0 {
		return nil, err
	}
	return []string{fmt.Sprintf("/proc/%d/root", v.Init.PID)}, nil
}
