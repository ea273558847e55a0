// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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

// StartOptions are how a task is started.
type StartOptions struct {
	// Client says that the caller stays until the end: it closes the container's stdin, and removes a
	// transient container itself.
	Client bool
	// Shim is the path of ctr-shim; empty: beside this program, else on PATH.
	Shim string
}

// Task is a task that has been started, with a connection to its supervisor.
type Task struct {
	ID     string
	PID    int
	Client *taskapi.Client
	client *lock.Held // of StartOptions.Client
}

// Leave says that the task's stdin stays open when the caller closes the connection, for other clients.
func (t *Task) Leave() error {
	if t.client == nil {
		return nil
	}
	left := t.client
	t.client = nil
	return left.Remove()
}

// Close gives up the connection and, for a client of a transient container, the care for it.
func (t *Task) Close() error {
	err := t.Client.Close()
	if t.client != nil {
		err = errors.Join(err, t.client.Release())
	}
	return err
}

// Start runs a container that is created or has stopped. What keeps the program from running is a
// [*ProgramError]. One that runs already is errdefs.ErrFailedPrecondition.
func Start(ctx context.Context, d *state.Dir, ns, id string, o StartOptions) (*Task, error) {
	c, err := find(ctx, d, ns, id)
	if err != nil {
		return nil, err
	}
	go cgroup.Hasten()
	// A supervisor that has recorded the exit may still be unmounting.
	if err := awaitSupervisor(ctx, Dir(d, ns, c.ID)); err != nil {
		return nil, fmt.Errorf("start container %q: %w", c.ID, err)
	}
	if err := snapshot.NotMounted(ctx, d, ns, c.SnapshotKey); err != nil {
		return nil, fmt.Errorf("start container %q: %w", c.ID, err)
	}
	l, err := d.Lock(ctx, nil, lock.Container, ns+"/"+c.ID, lock.Exclusive)
	if err != nil {
		return nil, fmt.Errorf("start container %q: %w", c.ID, err)
	}
	starting, err := reserve(d, ns, c.ID)
	if err = errors.Join(err, l.Release()); err != nil {
		return nil, fmt.Errorf("start container %q: %w", c.ID, err)
	}
	t, err := launch(ctx, d, ns, c, o, starting)
	if err != nil {
		return nil, fmt.Errorf("start container %q: %w", c.ID, err)
	}
	return t, nil
}

// reserve makes a fresh task directory, under the container's lock, and marks it as being started by
// this process.
func reserve(d *state.Dir, ns, id string) (*lock.Held, error) {
	dir := Dir(d, ns, id)
	if _, err := finish(d, ns, id); err != nil {
		return nil, err
	}
	if alive, err := taskdir.Live(dir); err != nil {
		return nil, err
	} else if alive {
		return nil, &RunningError{ID: id}
	}
	if err := d.Trash(dir); err != nil {
		return nil, err
	}
	crash.Point("task.cleared")
	if err := os.MkdirAll(filepath.Join(dir, taskdir.Rootfs), 0o711); err != nil {
		return nil, err
	}
	crash.Point("task.directory")
	return lock.Hold(filepath.Join(dir, taskdir.StartLock))
}

// launch fills the reserved directory, starts the supervisor and has it run the container. When it fails
// the task is gone again.
func launch(ctx context.Context, d *state.Dir, ns string, c container.Container, o StartOptions, starting *lock.Held) (_ *Task, err error) {
	dir := Dir(d, ns, c.ID)
	crash.Point("task.reserved")
	t := &Task{ID: c.ID}
	var shim *exec.Cmd
	reaped := make(chan struct{})
	defer func() {
		if err == nil {
			err = starting.Release()
			return
		}
		if shim != nil {
			shim.Process.Kill()
			<-reaped
		}
		starting.Release()
		undo := context.WithoutCancel(ctx)
		if e := discard(undo, d, ns, c.ID); e != nil {
			err = errors.Join(err, e)
		}
		if t.client != nil {
			t.client.Release()
		}
	}()
	if o.Client && (c.Transient || c.Stdin) {
		if t.client, err = lock.Hold(filepath.Join(dir, taskdir.ClientLock)); err != nil {
			return nil, err
		}
	}
	req, err := bundle(ctx, d, ns, c, dir)
	if err != nil {
		return nil, err
	}
	crash.Point("task.bundle")
	if shim, err = spawn(ctx, d, ns, c, dir, o); err != nil {
		return nil, err
	}
	go func() {
		defer close(reaped)
		shim.Wait() // so that it is no zombie while this process lives
	}()
	crash.Point("task.spawned")
	var s taskdir.Supervisor
	if ok, err := taskdir.Read(dir, taskdir.Shim, &s); err != nil || !ok {
		return nil, errors.Join(err, errors.New("the supervisor wrote no address"))
	}
	if t.Client, err = taskapi.Dial(ctx, s.Address); err != nil {
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	t.Client.Namespace = ns
	if _, err := t.Client.Create(ctx, req); err != nil {
		return nil, programError(err)
	}
	crash.Point("task.created")
	started, err := t.Client.Start(ctx, &taskapi.StartRequest{ID: c.ID})
	if err != nil {
		return nil, programError(err)
	}
	crash.Point("task.started")
	t.PID = int(started.Pid)
	return t, nil
}

// discard removes the task directory of a start that failed, and the container too when it is
// transient.
func discard(ctx context.Context, d *state.Dir, ns, id string) error {
	if err := Finish(ctx, d, ns, id); err != nil {
		return err
	}
	crash.Point("task.discard")
	c, err := find(ctx, d, ns, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.Transient {
		return remove(ctx, d, ns, id)
	}
	l, err := d.Lock(ctx, nil, lock.Container, ns+"/"+id, lock.Exclusive)
	if err != nil {
		return err
	}
	err = d.Trash(Dir(d, ns, id))
	return errors.Join(err, l.Release(), d.EmptyTrash())
}

// bundle writes the OCI bundle and gives the request that creates the task from it.
func bundle(ctx context.Context, d *state.Dir, ns string, c container.Container, dir string) (*taskapi.CreateTaskRequest, error) {
	req := &taskapi.CreateTaskRequest{ID: c.ID, Bundle: dir}
	var s *specs.Spec
	err := d.View(ctx, func(tx *state.Tx) (err error) {
		if s, err = container.Spec(tx, ns, c.ID); err != nil {
			return err
		}
		mounts, err := snapshot.Mounts(tx, d, ns, c.SnapshotKey)
		for _, m := range mounts {
			req.Rootfs = append(req.Rootfs, taskapi.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if c.DefaultSeccomp {
		if err := spec.WithSeccomp(s); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, taskdir.Config), data, 0o600); err != nil {
		return nil, err
	}
	for name, text := range spec.Files(s) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if c.Stdin {
		req.Stdin = filepath.Join(dir, taskdir.Stdin)
		if err := stdio.MakeFIFO(req.Stdin); err != nil {
			return nil, err
		}
	}
	req.Terminal = s.Process.Terminal
	log := stdio.Log{Path: LogPath(d, ns, c.ID), MaxSize: c.LogMaxSize, MaxFiles: c.LogMaxFiles}
	if err := os.MkdirAll(filepath.Dir(log.Path), 0o700); err != nil {
		return nil, err
	}
	req.Stdout = log.String()
	if !req.Terminal {
		req.Stderr = req.Stdout
	}
	return req, nil
}

// spawn starts the supervisor and returns once it listens. It has its own session, its own mount
// namespace (the container's overlay mount never shows in the host's table), and none of our files.
func spawn(ctx context.Context, d *state.Dir, ns string, c container.Container, dir string, o StartOptions) (*exec.Cmd, error) {
	path, err := shimPath(o.Shim)
	if err != nil {
		return nil, err
	}
	// The socket's place is told: by the time the supervisor looks, its directory may have been trashed.
	args := []string{"serve", "--namespace", ns, "--id", c.ID, "--events", d.Journal().Dir, "--sockets", d.Run("s")}
	if c.Transient {
		args = append(args, "--rm", "--root", d.Path(), "--state", d.Run())
	}
	log, err := os.OpenFile(filepath.Join(dir, taskdir.ShimLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ready, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	// One processor is enough to supervise; each more costs the supervisor memory as long as it lives.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	// The supervisor is alive from the fork on, not only when it has come to take its own lock: it inherits
	// one. Without that a task could be taken for dead, and its directory away, under a supervisor that
	// has just been started by a command that was killed.
	alive, err := lock.Hold(filepath.Join(dir, taskdir.SpawnLock))
	if err != nil {
		w.Close()
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{w, alive.File()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	err = cmd.Start()
	w.Close()
	alive.File().Close() // not Release, which would let go for the supervisor, too
	if err != nil {
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err := io.ReadAll(ready)
	if err == nil && string(answer) == "ok\n" {
		return cmd, nil
	}
	cmd.Process.Kill()
	cmd.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if text := strings.TrimSpace(string(answer)); text != "" {
		return nil, fmt.Errorf("supervisor: %s", text)
	}
	text, _ := os.ReadFile(log.Name())
	return nil, fmt.Errorf("supervisor ended before it listened: %s", strings.TrimSpace(string(text)))
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
