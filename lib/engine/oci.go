// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	runc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/taskdir"
)

// oci is an OCI engine: a program with runc's command line, such as runc, crun, youki or runsc.
type oci struct {
	id, root string
	name     string // as it was given
	binary   string // absolute
	systemd  bool
	noKeys   bool
	noPivot  bool
	timeout  time.Duration
	bundle   string // the working directory; absolute
	dir      string // for what lives as long as one call; absolute
}

const (
	// killTime is how long a killed engine, or one that others hold open, is waited for.
	killTime = 2 * time.Second
	// defaultPath is PATH where there is none.
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// initPid is a file in the bundle: the pid of init, as the engine wrote it. Containerd has it there, and programs
	// that stand for an engine look for it.
	initPid = "init.pid"
)

func newOCI(id, root string, r ask.Request) (*oci, error) {
	if os.Getenv("PATH") == "" {
		os.Setenv("PATH", defaultPath)
	}
	binary, err := exec.LookPath(r.Binary)
	if err == nil {
		binary, err = filepath.Abs(binary)
	}
	if err != nil {
		return nil, fmt.Errorf("engine %q: %w; install it, or name another one by its path", r.Binary, errors.Unwrap(err))
	}
	o := &oci{id: id, name: r.Binary, binary: binary, noKeys: r.NoNewKeyring, noPivot: r.NoPivotRoot}
	o.timeout = cmp.Or(r.Timeout, ask.DefaultTimeout)
	if o.bundle, err = os.Getwd(); err != nil {
		return nil, err
	}
	o.dir = filepath.Join(o.bundle, stateDir)
	if o.root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	o.systemd = r.SystemdCgroup
	if err := os.MkdirAll(o.dir, 0o711); err != nil {
		return nil, err
	}
	// go-runc makes its temporary files there.
	if os.Geteuid() == 0 {
		os.Unsetenv("XDG_RUNTIME_DIR")
	}
	return o, os.Setenv("TMPDIR", o.dir)
}

// scratch is a path for a file of this process alone. It is in the state root's directory, which is removed
// with the container, unless the root is elsewhere.
func (o *oci) scratch(name string) string {
	return filepath.Join(o.dir, strconv.Itoa(os.Getpid())+"."+name)
}

// call runs the engine once. Its error says what it did and, in the engine's own words, what went wrong.
func (o *oci) call(ctx context.Context, what string, run func(context.Context, *runc.Runc) error) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	log := o.scratch("log")
	defer os.Remove(log)
	r := &runc.Runc{Command: o.binary, Root: o.root, Log: log, LogFormat: runc.JSON, SystemdCgroup: o.systemd}
	done := make(chan error, 1)
	go func() { done <- run(ctx, r) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		// It is being killed. A process of its own that holds its output open is not waited for.
		select {
		case err = <-done:
		case <-time.After(killTime):
			err = ctx.Err()
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("engine %q: %s: killed, no answer within %v: %w", o.name, what, o.timeout, ctx.Err())
	case ctx.Err() != nil:
		return fmt.Errorf("engine %q: %s: killed, nobody waits for it: %w", o.name, what, ctx.Err())
	}
	said, _ := os.ReadFile(log)
	if text := cmp.Or(lastError(said), lastLine([]byte(afterStatus(err.Error())))); text != "" {
		return &engineFailure{o.name, what, text}
	}
	return fmt.Errorf("engine %q: %s: %w", o.name, what, err)
}

// afterStatus gives what an engine printed, which go-runc appends to the exit status.
func afterStatus(text string) string {
	_, text, _ = strings.Cut(text, "exit status ")
	_, text, _ = strings.Cut(text, ": ")
	return text
}

// engineFailure is what an engine said. Words about the program stand alone, as those of the embedded
// engine do; all others name the engine.
type engineFailure struct{ name, what, text string }

func (e *engineFailure) Error() string {
	kind, text := explain(errors.New(e.text))
	if kind != ask.Other {
		return text
	}
	return fmt.Sprintf("engine %q: %s: %s", e.name, e.what, text)
}

func (o *oci) create(ctx context.Context, spec *specs.Spec, st stdio) (made, error) {
	pidFile := filepath.Join(o.bundle, initPid)
	unix.Unlink(pidFile)
	o.systemd = o.systemd || cgroup.UsesSystemd(spec.Linux.CgroupsPath)
	o.timeout += ask.HookTime(spec.Hooks)
	err := o.withStreams(ctx, st, func(ctx context.Context, io runc.IO, socket runc.ConsoleSocket) error {
		return o.call(ctx, "create", func(ctx context.Context, r *runc.Runc) error {
			return r.Create(ctx, o.id, o.bundle, &runc.CreateOpts{
				IO: io, PidFile: pidFile, ConsoleSocket: socket, NoPivot: o.noPivot, NoNewKeyring: o.noKeys,
			})
		})
	})
	crash.Point("engine.create.started")
	var pid int
	if err == nil {
		pid, err = readPid(pidFile)
	}
	if err == nil {
		err = checkInit(pid, spec)
	}
	if err != nil {
		// Also when nobody waits for it any more.
		if rerr := o.remove(context.WithoutCancel(ctx)); rerr != nil {
			logrus.Warn(rerr)
		}
		return made{}, err
	}
	return made{pid: pid, delete: true}, nil
}

func readPid(file string) (int, error) {
	pid, err := runc.ReadPidFile(file)
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("%s: no pid: %w", filepath.Base(file), cmp.Or(err, os.ErrInvalid))
	}
	return pid, nil
}

func (o *oci) start(ctx context.Context) error {
	return o.call(ctx, "start", func(ctx context.Context, r *runc.Runc) error { return r.Start(ctx, o.id) })
}

func (o *oci) exec(ctx context.Context, p *specs.Process, st stdio) (int, error) {
	init, err := readPid(filepath.Join(o.bundle, initPid))
	if err != nil {
		return 0, err
	}
	if err := checkRunnable(init, p); err != nil {
		return 0, err
	}
	pidFile := o.scratch("pid")
	defer os.Remove(pidFile)
	err = o.withStreams(ctx, st, func(ctx context.Context, io runc.IO, socket runc.ConsoleSocket) error {
		return o.call(ctx, "exec", func(ctx context.Context, r *runc.Runc) error {
			return r.Exec(ctx, o.id, *p, &runc.ExecOpts{IO: io, PidFile: pidFile, ConsoleSocket: socket, Detach: true})
		})
	})
	crash.Point("engine.exec.started")
	if err != nil {
		return 0, err
	}
	return readPid(pidFile)
}

func (o *oci) update(ctx context.Context, res *specs.LinuxResources) error {
	return o.call(ctx, "update", func(ctx context.Context, r *runc.Runc) error { return r.Update(ctx, o.id, res) })
}

func (o *oci) remove(ctx context.Context) error {
	hooks, err := taskdir.Hooks(o.bundle)
	if err != nil {
		logrus.Warn(err) // the engine has its own copy
	}
	o.timeout += ask.PoststopTime(hooks)
	// With force runc sleeps 100 ms, also when the container has stopped.
	err = o.delete(ctx, false)
	if err != nil {
		err = o.delete(ctx, true)
	}
	if err != nil && strings.Contains(err.Error(), "does not exist") {
		return nil
	}
	return err
}

func (o *oci) delete(ctx context.Context, force bool) error {
	return o.call(ctx, "delete", func(ctx context.Context, r *runc.Runc) error {
		return r.Delete(ctx, o.id, &runc.DeleteOpts{Force: force})
	})
}
