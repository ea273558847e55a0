// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// supervisor is one that this process has started.
type supervisor struct {
	taskapi.Bootstrap
	cmd    *exec.Cmd
	reaped chan struct{}
}

// kill ends it and waits for that.
func (s *supervisor) kill() {
	s.cmd.Process.Kill()
	<-s.reaped
}

// awaitEnd waits for its end, for as long as one may be silent; it reports false when that has passed.
func (s *supervisor) awaitEnd() bool {
	select {
	case <-s.reaped:
		return true
	case <-time.After(silentAfter):
		return false
	}
}

// ended says how a process ended that did not do so well by itself; it is empty for another, and for one that lives.
func (s *supervisor) ended() string {
	select {
	case <-s.reaped:
	default:
		return ""
	}
	switch how := s.cmd.ProcessState.Sys().(syscall.WaitStatus); {
	case how.Signaled():
		return fmt.Sprintf("it was killed by signal %d (%s)", how.Signal(), how.Signal())
	case how.ExitStatus() != 0:
		return fmt.Sprintf("it ended with status %d", how.ExitStatus())
	}
	return ""
}

// pid is the supervisor's: of a foreign shim, the server's that the process has forked.
func (s *supervisor) pid(dir string) int {
	var known taskdir.Supervisor
	if ok, err := taskdir.Read(dir, taskdir.Shim, &known); err == nil && ok {
		return known.PID
	}
	return s.cmd.Process.Pid
}

// spawn starts the supervisor and returns once it has said where it listens, on its stdout as containerd's
// shims do. It has its own session and none of our files.
func (t *Task) spawn(ctx context.Context, r runtime, o *taskapi.Any) (*supervisor, error) {
	s, answer, err := t.startShim(ctx, r, o, false)
	if err == nil && r.foreign && len(answer) == 0 && t.refusedParams() {
		s.kill()
		s, answer, err = t.startShim(ctx, r, o, true)
	}
	if err != nil {
		return nil, err
	}
	if s.Bootstrap, err = taskapi.ParseBootstrap(answer); err == nil {
		return s, nil
	}
	if len(answer) == 0 {
		s.awaitEnd() // its output ends a moment before it does
	}
	how := s.ended()
	s.kill()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	// A plain error: what a shim says badly is no operand of the caller's.
	said := strings.TrimSuffix(err.Error(), ": "+errdefs.ErrInvalidArgument.Error())
	if text, _ := os.ReadFile(filepath.Join(t.Dir(), taskdir.ShimLog)); len(bytes.TrimSpace(text)) > 0 {
		said = string(bytes.TrimSpace(text))
	}
	if how != "" {
		said = how + ": " + said
	}
	return nil, fmt.Errorf("shim %s: %s", r.shim, said)
}

// startShim runs the shim's command and gives what it says. old is for a foreign one: see startForeign.
func (t *Task) startShim(ctx context.Context, r runtime, o *taskapi.Any, old bool) (*supervisor, []byte, error) {
	cmd := exec.Command(r.shim, "-namespace", t.Namespace, "-id", t.ID(), "-bundle", t.bundleDir(), "-sockets", t.d.Run("s"),
		"-events", t.d.Journal().Dir, "-root", t.d.Path(), "-state", t.d.Run(), "serve")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if r.foreign {
		if err := t.startForeign(cmd, o, old); err != nil {
			return nil, nil, err
		}
	}
	named, err := shimCgroup(r, o)
	if err != nil {
		return nil, nil, err
	}
	// One processor is enough to supervise; each more costs the supervisor memory as long as it lives.
	cmd.Dir, cmd.Env = t.bundleDir(), append(append(os.Environ(), "GOMAXPROCS=1"), cmd.Env...)
	return t.run(ctx, cmd, named)
}

// run starts the supervisor of the task, in the cgroup that is named for it if one is, and reads what it says before it
// closes its stdout.
func (t *Task) run(ctx context.Context, cmd *exec.Cmd, named string) (*supervisor, []byte, error) {
	return runSupervisor(ctx, cmd, t.Dir(), t.patience(), func(cmd *exec.Cmd) error { return t.startOut(cmd, named) })
}

// runSupervisor starts the supervisor of what has the directory dir, for which it may take so long as patience says.
func runSupervisor(ctx context.Context, cmd *exec.Cmd, dir string, patience time.Duration, start func(*exec.Cmd) error) (*supervisor, []byte, error) {
	log, err := os.OpenFile(filepath.Join(dir, taskdir.ShimLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	said, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer said.Close()
	// The supervisor is alive from the fork on, not only when it has come to take its own lock: it inherits
	// one. Without that a task could be taken for dead, and its directory away, under a supervisor that
	// has just been started by a command that was killed.
	alive, err := lock.Hold(filepath.Join(dir, taskdir.SpawnLock))
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = w, log, []*os.File{alive.File()}
	err = start(cmd)
	w.Close()
	alive.File().Close() // not Release, which would let go for the supervisor, too
	if err != nil {
		return nil, nil, fmt.Errorf("shim: %w", err)
	}
	s := &supervisor{cmd: cmd, reaped: make(chan struct{})}
	go func() {
		defer close(s.reaped)
		cmd.Wait() // so that it is no zombie while this process lives
	}()
	stop := context.AfterFunc(ctx, func() { said.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said.SetReadDeadline(time.Now().Add(patience))
	answer, err := io.ReadAll(io.LimitReader(said, 1<<20))
	if err != nil {
		s.kill()
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		return nil, nil, fmt.Errorf("shim %s, pid %d, has not said where it listens: %w", cmd.Path, cmd.Process.Pid, err)
	}
	return s, answer, nil
}
