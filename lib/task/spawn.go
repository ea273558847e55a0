// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// supervisor is one that this process has started.
type supervisor struct {
	cmd     *exec.Cmd
	address string
	reaped  chan struct{}
}

// kill ends it and waits for that.
func (s *supervisor) kill() {
	s.cmd.Process.Kill()
	<-s.reaped
}

// spawn starts the supervisor and returns once it has said where it listens, on its stdout and in the form of
// containerd's shims. It has its own session, its own mount namespace (the container's overlay mount never
// shows in the host's table), and none of our files.
func (t *Task) spawn(ctx context.Context, o StartOptions) (*supervisor, error) {
	path, err := shimPath(o.Shim)
	if err != nil {
		return nil, err
	}
	dir := t.Dir()
	cmd := exec.Command(path, "-namespace", t.Namespace, "-id", t.ID(), "-bundle", dir, "-sockets", t.d.Run("s"),
		"-events", t.d.Journal().Dir, "-root", t.d.Path(), "-state", t.d.Run(), "serve")
	// One processor is enough to supervise; each more costs the supervisor memory as long as it lives.
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOMAXPROCS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	s, answer, err := t.run(ctx, cmd)
	if err != nil {
		return nil, err
	}
	said, err := taskapi.ParseBootstrap(answer)
	if err == nil {
		s.address = said.Address
		return s, nil
	}
	s.kill()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, taskdir.ShimLog)); len(bytes.TrimSpace(text)) > 0 {
		err = errors.New(string(bytes.TrimSpace(text)))
	}
	return nil, fmt.Errorf("supervisor %s: %w", path, err)
}

// run starts a supervisor and reads what it says before it closes its stdout.
func (t *Task) run(ctx context.Context, cmd *exec.Cmd) (*supervisor, []byte, error) {
	log, err := os.OpenFile(filepath.Join(t.Dir(), taskdir.ShimLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
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
	alive, err := lock.Hold(filepath.Join(t.Dir(), taskdir.SpawnLock))
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = w, log, []*os.File{alive.File()}
	err = cmd.Start()
	w.Close()
	alive.File().Close() // not Release, which would let go for the supervisor, too
	if err != nil {
		return nil, nil, fmt.Errorf("supervisor: %w", err)
	}
	s := &supervisor{cmd: cmd, reaped: make(chan struct{})}
	go func() {
		defer close(s.reaped)
		cmd.Wait() // so that it is no zombie while this process lives
	}()
	stop := context.AfterFunc(ctx, func() { said.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said.SetReadDeadline(time.Now().Add(t.patience()))
	answer, err := io.ReadAll(io.LimitReader(said, 1<<20))
	if err != nil {
		s.kill()
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		return nil, nil, fmt.Errorf("supervisor %s, pid %d, has not said where it listens: %w", cmd.Path, cmd.Process.Pid, err)
	}
	return s, answer, nil
}

// shimPath finds ctr-shim: where it was named, beside this program, or on PATH.
func shimPath(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	self, err := os.Executable()
	if err == nil {
		path := filepath.Join(filepath.Dir(self), "ctr-shim")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("ctr-shim")
	if err != nil {
		return "", fmt.Errorf("ctr-shim is neither beside %s nor on PATH: %w", self, errdefs.ErrNotFound)
	}
	return path, nil
}
