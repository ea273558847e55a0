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
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/stdio"
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
	Stdin          io.Reader // nil: /dev/null
	Stdout, Stderr io.Writer // with TTY all goes to Stdout
	Detach         bool      // do not wait for its end; it has no output then
	// Started, when set, is called with the running exec, which can then be resized and signalled.
	Started func(*ExecProcess)
}

// PausedError says that a container must be resumed first. Its kind is errdefs.ErrFailedPrecondition.
type PausedError struct{ ID string }

// Error names the container.
func (e *PausedError) Error() string { return fmt.Sprintf("container %q is paused", e.ID) }

// Unwrap gives the kind.
func (e *PausedError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *PausedError) Hint() string { return "ctr-task resume " + e.ID }

// ExecProcess is a running exec.
type ExecProcess struct {
	ID, ExecID string
	PID        int
	client     *taskapi.Client
}

// Resize sets the size of the exec's terminal.
func (p *ExecProcess) Resize(ctx context.Context, width, height uint16) error {
	return p.client.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: p.ID, ExecID: p.ExecID, Width: uint32(width), Height: uint32(height)})
}

// Signal sends it a signal.
func (p *ExecProcess) Signal(ctx context.Context, sig unix.Signal) error {
	return p.client.Kill(ctx, &taskapi.KillRequest{ID: p.ID, ExecID: p.ExecID, Signal: uint32(sig)})
}

// Exec runs a program in a running container and gives its exit, or the zero Exit with Detach. What keeps
// the program from running is a [*ProgramError]. A program whose output cannot be written is killed.
func Exec(ctx context.Context, d *state.Dir, ns, id string, o ExecOptions) (taskdir.Exit, error) {
	c, err := find(ctx, d, ns, id)
	if err != nil {
		return taskdir.Exit{}, err
	}
	exit, err := execIn(ctx, d, ns, c, o)
	if err != nil {
		return exit, fmt.Errorf("exec in container %q: %w", c.ID, err)
	}
	return exit, nil
}

func execIn(ctx context.Context, d *state.Dir, ns string, c container.Container, o ExecOptions) (exit taskdir.Exit, err error) {
	go cgroup.Hasten()
	client, err := connect(ctx, d, ns, c.ID)
	if err != nil {
		return exit, err
	}
	defer client.Close()
	process, err := execProcess(ctx, d, ns, c, o)
	if err != nil {
		return exit, err
	}
	p := &ExecProcess{ID: c.ID, ExecID: strings.ToLower(rand.Text()[:12]), client: client}
	dir := filepath.Join(Dir(d, ns, c.ID), "execs", p.ExecID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return exit, err
	}
	crash.Point("task.exec-directory")
	// As long as we live, and do not leave the exec to itself, it is ours to delete.
	alive, err := lock.Hold(filepath.Join(dir, taskdir.ClientLock))
	if err != nil {
		return exit, err
	}
	release := sync.OnceValue(alive.Release)
	defer release()
	if !o.Detach {
		defer os.RemoveAll(dir)
	}
	s, err := openStreams(dir, o)
	if err != nil {
		return exit, err
	}
	defer s.close()
	req := &taskapi.ExecProcessRequest{ID: c.ID, ExecID: p.ExecID, Terminal: o.TTY, Spec: process, Stdin: s.stdin, Stdout: s.name(s.stdout), Stderr: s.name(s.stderr)}
	if err := client.Exec(ctx, req); err != nil {
		return exit, err
	}
	crash.Point("task.exec-added")
	defer func() {
		// From here on the supervisor deletes it, if it has not ended yet.
		err = errors.Join(err, release())
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWithin)
		defer cancel()
		if p.PID == 0 && ctx.Err() != nil {
			// Cancelled while it was being started: nobody knows of it.
			client.Kill(short, &taskapi.KillRequest{ID: c.ID, ExecID: p.ExecID, Signal: uint32(unix.SIGKILL)})
		}
		client.Delete(short, &taskapi.DeleteRequest{ID: c.ID, ExecID: p.ExecID})
	}()
	started, err := client.Start(ctx, &taskapi.StartRequest{ID: c.ID, ExecID: p.ExecID})
	if err != nil {
		if frozen, _ := cgroup.Frozen(cgroupOf(d, Dir(d, ns, c.ID), ns, c.ID)); frozen {
			return exit, &PausedError{c.ID}
		}
		return exit, programError(err)
	}
	p.PID = int(started.Pid)
	crash.Point("task.exec-started")
	if o.Started != nil {
		o.Started(p)
	}
	if o.Detach {
		return exit, nil
	}
	return s.run(ctx, p, o)
}

// execProcess makes the OCI process of an exec from the container's own.
func execProcess(ctx context.Context, d *state.Dir, ns string, c container.Container, o ExecOptions) (*taskapi.Any, error) {
	var s *specs.Spec
	var dirs []string
	err := d.View(ctx, func(tx *state.Tx) (err error) {
		if s, err = container.Spec(tx, ns, c.ID); err != nil {
			return err
		}
		dirs, err = snapshot.Layers(tx, d, ns, c.SnapshotKey)
		return err
	})
	if err != nil {
		return nil, err
	}
	p, err := spec.Exec(s, spec.ExecOptions{
		Args: o.Args, Env: o.Env, EnvFiles: o.EnvFiles, Workdir: o.Workdir, User: o.User, Privileged: o.Privileged, TTY: o.TTY,
		Open: spec.LayerFS(dirs).Open,
	})
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(p)
	return &taskapi.Any{TypeURL: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data}, err
}

// streams are the client's ends of an exec's FIFOs.
type streams struct {
	stdin          string // path, or empty
	stdout, stderr *os.File
}

func openStreams(dir string, o ExecOptions) (s *streams, err error) {
	s = &streams{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if o.Detach {
		return s, nil
	}
	if o.Stdin != nil {
		s.stdin = filepath.Join(dir, "stdin")
		if err := stdio.MakeFIFO(s.stdin); err != nil {
			return s, err
		}
	}
	for name, f := range map[string]**os.File{"stdout": &s.stdout, "stderr": &s.stderr} {
		if o.TTY && name == "stderr" {
			continue
		}
		path := filepath.Join(dir, name)
		if err := stdio.MakeFIFO(path); err != nil {
			return s, err
		}
		if *f, err = stdio.OpenReader(path); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *streams) name(f *os.File) string {
	if f == nil {
		return ""
	}
	return f.Name()
}

func (s *streams) close() {
	for _, f := range []*os.File{s.stdout, s.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// run copies the streams until the exec has ended.
func (s *streams) run(ctx context.Context, p *ExecProcess, o ExecOptions) (exit taskdir.Exit, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if s.stdin != "" {
		go func() {
			f, err := stdio.OpenWriter(s.stdin)
			if err == nil {
				err = pass(f, o.Stdin)
			} else {
				err = nil // it has ended
			}
			if err != nil {
				cancel(err)
				return
			}
			_ = p.client.CloseIO(ctx, &taskapi.CloseIORequest{ID: p.ID, ExecID: p.ExecID, Stdin: true})
		}()
	}
	copies := make(chan error, 2)
	n := 0
	for f, w := range map[*os.File]io.Writer{s.stdout: o.Stdout, s.stderr: o.Stderr} {
		if f == nil {
			continue
		}
		n++
		go func() {
			_, err := io.Copy(w, f)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = rest(w, f)
			}
			if err != nil {
				_ = p.Signal(ctx, unix.SIGKILL) // nobody takes what it has to say; it may have ended
				cancel(err)
			}
			copies <- err
		}()
	}
	w, err := p.client.Wait(ctx, &taskapi.WaitRequest{ID: p.ID, ExecID: p.ExecID})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return exit, err
	}
	// What it wrote is in the FIFOs by now. A process it left behind may keep them open: take what is
	// there and go.
	for _, f := range []*os.File{s.stdout, s.stderr} {
		if f != nil {
			f.SetReadDeadline(time.Unix(1, 0))
		}
	}
	for range n {
		err = errors.Join(err, <-copies)
	}
	return taskdir.Exit{Status: int(w.ExitStatus), ExitedAt: w.ExitedAt}, err
}

// rest copies what a FIFO holds at this moment.
func rest(w io.Writer, f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n := 0
		if e := c.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf) }); e != nil {
			return e
		}
		if n <= 0 {
			if err == unix.EINTR {
				continue
			}
			return nil
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
}
