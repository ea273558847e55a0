// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/moby/sys/userns"
	_ "github.com/opencontainers/cgroups/devices" // lets the cgroup managers write device rules
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters namespaces before the Go runtime starts
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/taskdir"
)

// stateDir is libcontainer's state root, below the working directory.
const stateDir = taskdir.Engine

// Init is the first life of a process in a container: libcontainer starts the program again with
// "init" as its only argument, and it sets itself up and becomes the container's program. It does not
// return. Only one goroutine may run.
func Init() {
	debug.SetGCPercent(-1)
	libcontainer.Init()
}

// Main does what one request asks for and returns the process's exit status: 0 when the parent was told
// how it went. verb is one of package ask.
func Main(verb, id string) int {
	// The process lives for some milliseconds.
	debug.SetGCPercent(-1)
	logrus.SetLevel(logrus.WarnLevel)
	unix.CloseOnExec(ask.Fd) // what is started here must not keep the socket open
	s := os.NewFile(ask.Fd, "supervisor")
	var work func(ask.Request, []*os.File) (int, error)
	switch verb {
	case ask.Create:
		work = prepare(s, id)
	case ask.Exec:
		work = func(r ask.Request, files []*os.File) (int, error) { return execute(id, r, files) }
	case ask.Update:
		work = func(r ask.Request, _ []*os.File) (int, error) { return 0, update(id, r) }
	case ask.Delete:
		work = func(ask.Request, []*os.File) (int, error) { return 0, remove(id) }
	default:
		fmt.Fprintf(os.Stderr, "ctr-shim: engine %q: no such verb\n", verb)
		return 2
	}
	var req ask.Request
	files, err := ask.Receive(s, &req)
	if err != nil {
		if err == io.EOF {
			return 0
		}
		fmt.Fprintln(os.Stderr, "ctr-shim: engine:", err)
		return 1
	}
	var done atomic.Bool
	go watchParent(&done)
	pid, err := work(req, files)
	done.Store(true)
	res := ask.Result{Pid: pid}
	if err != nil {
		res.Kind, res.Error = explain(err)
	}
	if err := ask.Send(s, res); err != nil {
		fmt.Fprintln(os.Stderr, "ctr-shim: engine:", err)
		return 1
	}
	return 0
}

// watchParent ends this process, and what it has started in its process group, when the parent dies before the
// work is done: nothing may be put into a container that has no supervisor. The parent's end of the socket
// closes with the parent. A parent death signal would come when the parent's thread ends, too.
func watchParent(done *atomic.Bool) {
	for {
		p := []unix.PollFd{{Fd: ask.Fd}} // POLLHUP needs no asking
		if _, err := unix.Poll(p, -1); err != unix.EINTR {
			break
		}
	}
	if !done.Load() {
		unix.Kill(0, unix.SIGKILL)
	}
}

// prepare does what can be done before the request has come: the parent starts the engine early.
func prepare(s *os.File, id string) func(ask.Request, []*os.File) (int, error) {
	spec, config, err := readConfig(id)
	var hello ask.Hello
	if err == nil {
		hello = introduce(spec)
	}
	if e := ask.Send(s, hello); err == nil {
		err = e
	}
	if err != nil {
		return func(ask.Request, []*os.File) (int, error) { return 0, fmt.Errorf("config.json: %w", err) }
	}
	return func(r ask.Request, files []*os.File) (int, error) {
		config.NoNewKeyring, config.NoPivotRoot = r.NoNewKeyring, r.NoPivotRoot
		return create(id, spec, config, r, files)
	}
}

func introduce(spec *specs.Spec) ask.Hello {
	h := ask.Hello{CgroupsPath: spec.Linux.CgroupsPath, Poststop: spec.Hooks != nil && len(spec.Hooks.Poststop) > 0}
	for _, m := range spec.Mounts {
		if slices.Contains(m.Options, "rshared") || slices.Contains(m.Options, "shared") {
			h.Shared = append(h.Shared, ask.Bind{Source: m.Source, Recursive: slices.Contains(m.Options, "rbind")})
		}
	}
	return h
}

func readConfig(id string) (*specs.Spec, *configs.Config, error) {
	spec, err := readSpec(id)
	if err != nil {
		return nil, nil, err
	}
	rootless := os.Geteuid() != 0
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:      id,
		Spec:            spec,
		RootlessEUID:    rootless,
		RootlessCgroups: rootless || userns.RunningInUserNS(),
	})
	return spec, config, err
}

func readSpec(id string) (*specs.Spec, error) {
	b, err := os.ReadFile(taskdir.Config)
	if err != nil {
		return nil, err
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(b, spec); err != nil {
		return nil, err
	}
	if spec.Process == nil {
		return nil, errors.New("no process")
	}
	if spec.Linux == nil {
		spec.Linux = new(specs.Linux)
	}
	// A relative path would be taken from the cgroup of whoever started the container.
	spec.Linux.CgroupsPath = path.Join("/", cmp.Or(spec.Linux.CgroupsPath, id))
	return spec, checkProcess(spec.Process)
}

func create(id string, spec *specs.Spec, config *configs.Config, r ask.Request, files []*os.File) (int, error) {
	c, err := libcontainer.Create(stateDir, id, config)
	if err != nil {
		os.Remove(stateDir)
		return 0, err
	}
	crash.Point("engine.create.state")
	pid, err := start(c, spec.Process, r, files, true)
	if err != nil {
		if derr := c.Destroy(); derr != nil {
			logrus.Warn(derr)
		}
		os.Remove(stateDir)
	}
	crash.Point("engine.create.started")
	return pid, err
}

func execute(id string, r ask.Request, files []*os.File) (int, error) {
	b, err := os.ReadFile(r.File)
	if err != nil {
		return 0, err
	}
	p := new(specs.Process)
	if err := json.Unmarshal(b, p); err != nil {
		return 0, fmt.Errorf("%s: %w", r.File, err)
	}
	if err := checkProcess(p); err != nil {
		return 0, err
	}
	c, err := libcontainer.Load(stateDir, id)
	if err != nil {
		return 0, err
	}
	pid, err := start(c, p, r, files, false)
	crash.Point("engine.exec.started")
	return pid, err
}

func start(c *libcontainer.Container, sp *specs.Process, r ask.Request, files []*os.File, init bool) (int, error) {
	p, err := newProcess(sp)
	if err != nil {
		return 0, err
	}
	p.Init = init
	switch {
	case r.Terminal && len(files) == 1:
		p.ConsoleSocket = files[0]
	case !r.Terminal && len(files) == 3:
		p.Stdin, p.Stdout, p.Stderr = files[0], files[1], files[2]
	default:
		return 0, fmt.Errorf("%d files came with the request", len(files))
	}
	if err := c.Start(p); err != nil {
		return 0, err
	}
	return p.Pid()
}

func remove(id string) error {
	c, err := libcontainer.Load(stateDir, id)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Destroy()
}

// explain gives a failure's kind and its text without the frames that say nothing to the person who
// asked for a program to run. The error of the process inside the container has crossed a pipe as text.
func explain(err error) (ask.Kind, string) {
	text := err.Error()
	for _, frame := range []string{
		"unable to start container process: ", "error during container init: ", "error executing setns process: ",
	} {
		text = strings.TrimPrefix(text, frame)
	}
	if !strings.HasPrefix(text, "exec: ") {
		return ask.Other, text
	}
	for _, why := range []string{"executable file not found in $PATH", "no such file or directory", "not a directory"} {
		if strings.Contains(text, why) {
			return ask.NotFound, text
		}
	}
	return ask.NotExecutable, text
}
