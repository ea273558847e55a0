// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/taskdir"
)

// engine makes and changes one container, whose bundle is the working directory. The processes that it
// starts are not its children for longer than its own process lives. A call that fails leaves nothing that
// remove, and the removal of cgroup and state directory, do not take away.
type engine interface {
	// create makes the container and its init, which waits before it becomes the program.
	create(ctx context.Context, spec *specs.Spec, st stdio) (made, error)
	// start lets init become the program. It is not called when create has given a FIFO for that.
	start(ctx context.Context) error
	// exec starts one more process and waits until it is the program.
	exec(ctx context.Context, p *specs.Process, st stdio) (pid int, err error)
	// checkpoint writes what the container's processes are into a directory. One that fails leaves them as they were, but perhaps frozen.
	checkpoint(ctx context.Context, c *ask.Checkpoint) error
	// restore makes the container from a checkpoint; its processes run on when it returns.
	restore(ctx context.Context, spec *specs.Spec, c *ask.Checkpoint, st stdio) (made, error)
	// update sets the limits that res names and leaves all others as they are.
	update(ctx context.Context, res *specs.LinuxResources) error
	// remove takes away what is left of the container; one that is not there is success.
	remove(ctx context.Context) error
}

// made is what create tells of a container.
type made struct {
	pid    int
	fifo   string   // see ask.Result
	delete bool     // see ask.Result
	status *os.File // see ask.Result; nil: init cannot tell
}

// stdio is what a process gets.
type stdio struct {
	files    []*os.File // stdin, stdout and stderr
	terminal *os.File   // instead of files: the socket that its terminal's master is sent to
}

// stateDir is the state root of an engine that was not given another, below the working directory.
const stateDir = taskdir.Engine

// job is one request and the container that it is for.
type job struct {
	ask.Request
	verb, id string
	spec     *specs.Spec // of Create and Restore
	ready    embedded    // of Create and Restore, for the embedded engine
	err      error       // why there is no spec
}

// Main does what one request asks for and returns the process's exit status: 0 when the parent was told
// how it went. verb is one of package ask. The process ends when the parent does.
func Main(verb, id string) int {
	// The process lives for some milliseconds.
	debug.SetGCPercent(-1)
	logrus.SetLevel(logrus.WarnLevel)
	if !slices.Contains([]string{ask.Create, ask.Start, ask.Exec, ask.Dump, ask.Restore, ask.Update, ask.Delete}, verb) {
		fmt.Fprintf(os.Stderr, "ctr-shim: engine %q: no such verb\n", verb)
		return 2
	}
	if err := serve(&job{verb: verb, id: id}); err != nil {
		fmt.Fprintln(os.Stderr, "ctr-shim: engine:", err)
		return 1
	}
	return 0
}

func serve(j *job) error {
	unix.CloseOnExec(ask.Fd)
	unix.CloseOnExec(ask.LockFd)
	if err := unix.SetNonblock(ask.Fd, true); err != nil {
		return os.NewSyscallError("set nonblocking", err)
	}
	s := os.NewFile(ask.Fd, "supervisor")
	if j.makes() {
		// What can be done before the request has come: the parent starts the engine early.
		if err := ask.Send(s, j.prepare()); err != nil {
			return err
		}
	}
	files, err := ask.Receive(s, &j.Request)
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return err
	}
	ctx := j.attend(s)
	res, status := j.do(ctx, files)
	if ctx.Err() != nil {
		end()
	}
	if status == nil {
		return ask.Send(s, res)
	}
	return ask.Send(s, res, status)
}

// attend gives a context that ends when the parent has gone or has closed the socket: nothing may be put
// into a container that nobody supervises. An OCI engine is first given time to be killed and cleaned up
// after; then the process group ends, in which is all that has not come as far as a session of its own.
func (j *job) attend(s *os.File) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		ask.AwaitEnd(s)
		if j.Binary == "" {
			end()
		}
		cancel()
		time.AfterFunc(giveUp, end)
	}()
	return ctx
}

// giveUp bounds what follows the end of the parent.
const giveUp = 20 * time.Second

// end ends the process, and its process group if that is its own.
func end() {
	if unix.Getpgrp() == unix.Getpid() {
		unix.Kill(0, unix.SIGKILL)
	}
	os.Exit(1)
}

// makes tells whether the request is for a container that is not there yet.
func (j *job) makes() bool { return j.verb == ask.Create || j.verb == ask.Restore }

// prepare reads config.json and tells of it what the parent has to know.
func (j *job) prepare() (h ask.Hello) {
	var cg string
	if j.spec, cg, j.err = readSpec(j.id); j.err != nil {
		return h
	}
	j.ready.prepare(j.id, j.spec)
	return ask.Hello{CgroupsPath: cg, HookTime: ask.HookTime(j.spec.Hooks), PoststopTime: ask.PoststopTime(j.spec.Hooks)}
}

// do answers the request. status is the file of ask.Result.
func (j *job) do(ctx context.Context, files []*os.File) (res ask.Result, status *os.File) {
	m, err := j.run(ctx, files)
	res = ask.Result{Pid: m.pid, FIFO: m.fifo, Delete: m.delete}
	if err != nil {
		res = ask.Result{}
		res.Kind, res.Error = explain(err)
	}
	return res, m.status
}

func (j *job) run(ctx context.Context, files []*os.File) (m made, err error) {
	if j.err != nil {
		return m, fmt.Errorf("%s: %w", taskdir.Config, j.err)
	}
	if j.makes() && j.SystemdCgroup && !cgroup.UsesSystemd(j.spec.Linux.CgroupsPath) {
		return m, fmt.Errorf("cgroup %q: the systemd driver needs SLICE:PREFIX:NAME", j.spec.Linux.CgroupsPath)
	}
	e, err := j.engine()
	if err != nil {
		return m, err
	}
	var st stdio
	if j.makes() || j.verb == ask.Exec {
		if st, err = stdioOf(j.Terminal, files); err != nil {
			return m, err
		}
	}
	switch j.verb {
	case ask.Create:
		if err := mountRootfs(j.Mounts, j.spec); err != nil {
			return m, err
		}
		return e.create(ctx, j.spec, st)
	case ask.Restore, ask.Dump:
		return j.freeze(ctx, e, st)
	case ask.Start:
		return m, e.start(ctx)
	case ask.Exec:
		p := new(specs.Process)
		if err = readJSON(j.File, p); err == nil {
			err = checkProcess(p)
		}
		if err == nil {
			m.pid, err = e.exec(ctx, p, st)
		}
		return m, err
	case ask.Update:
		res := new(specs.LinuxResources)
		if err := readJSON(j.File, res); err != nil {
			return m, err
		}
		return m, e.update(ctx, res)
	}
	return m, e.remove(ctx)
}

func (j *job) engine() (engine, error) {
	root := cmp.Or(j.Root, stateDir)
	if j.Binary != "" {
		return newOCI(j.id, root, j.Request)
	}
	e := &j.ready
	e.id, e.root, e.filters, e.noNewKeyring, e.noPivotRoot = j.id, root, j.Filters, j.NoNewKeyring, j.NoPivotRoot
	return e, nil
}

func stdioOf(terminal bool, files []*os.File) (stdio, error) {
	switch {
	case terminal && len(files) == 1:
		return stdio{terminal: files[0]}, nil
	case !terminal && len(files) == 3:
		return stdio{files: files}, nil
	}
	return stdio{}, fmt.Errorf("%d files came with the request", len(files))
}

// readSpec reads config.json and gives the path of the cgroup that it asks for. A relative path would be
// taken from the cgroup of whoever started the container; here all begin at the root.
func readSpec(id string) (spec *specs.Spec, cg string, err error) {
	spec = new(specs.Spec)
	if err := readJSON(taskdir.Config, spec); err != nil {
		return nil, "", err
	}
	if spec.Process == nil {
		return nil, "", errors.New("no process")
	}
	if spec.Linux == nil {
		spec.Linux = new(specs.Linux)
	}
	l := spec.Linux
	if cg, err = cgroup.Path(cmp.Or(l.CgroupsPath, "/"+id)); err != nil {
		return nil, "", err
	}
	if !cgroup.UsesSystemd(l.CgroupsPath) {
		l.CgroupsPath = cg
	}
	return spec, cg, checkProcess(spec.Process)
}

func hasPoststop(spec *specs.Spec) bool { return spec.Hooks != nil && len(spec.Hooks.Poststop) > 0 }

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		if file == taskdir.Config {
			return err
		}
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func checkProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return errors.New("process: no program to run")
	case !path.IsAbs(p.Cwd):
		return fmt.Errorf("process: working directory %q is not absolute", p.Cwd)
	}
	return nil
}
