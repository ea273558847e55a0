// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/moby/sys/userns"
	_ "github.com/opencontainers/cgroups/devices" // lets the cgroup managers write device rules
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters namespaces before the Go runtime starts
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/engine/bpf"
)

// embedded is libcontainer, linked into this program.
type embedded struct {
	id, root, filters         string
	noNewKeyring, noPivotRoot bool

	config *configs.Config // of create
	err    error           // why there is none
}

const (
	// statusFd is where a process in a container says that it could not become its program.
	statusFd = 3
	// filterFd is the compiled seccomp filter, or where it is put: see package bpf.
	filterFd = 4
)

// Init is the first life of a process in a container: libcontainer starts the program again with
// "init" as its only argument, and it sets itself up and becomes the container's program. It does not
// return. Only one goroutine may run.
func Init() {
	debug.SetGCPercent(-1)
	// What libcontainer prints is an execve that failed: everything before is told to the engine. The
	// container's own stderr is no place for it, and our exec closes this file.
	unix.CloseOnExec(statusFd)
	os.Stderr = os.NewFile(statusFd, "status")
	unix.CloseOnExec(filterFd)
	bpf.Use(filterFd)
	libcontainer.Init()
}

// prepare makes libcontainer's configuration from a spec.
func (e *embedded) prepare(id string, spec *specs.Spec) {
	rootless := os.Geteuid() != 0
	e.config, e.err = specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       id,
		UseSystemdCgroup: cgroup.UsesSystemd(spec.Linux.CgroupsPath),
		Spec:             spec,
		RootlessEUID:     rootless,
		RootlessCgroups:  rootless || userns.RunningInUserNS(),
	})
}

func (e *embedded) create(_ context.Context, spec *specs.Spec, st stdio) (made, error) {
	if e.err != nil {
		return made{}, e.err
	}
	e.config.NoNewKeyring, e.config.NoPivotRoot = e.noNewKeyring, e.noPivotRoot
	c, err := libcontainer.Create(e.root, e.id, e.config)
	if err != nil {
		os.Remove(e.root)
		return made{}, err
	}
	crash.Point("engine.create.state")
	pid, status, err := e.begin(c, spec.Process, st, true)
	if err == nil {
		err = checkInit(pid, spec)
	}
	if err == nil {
		err = e.writeEntry(c)
	}
	if err != nil {
		if derr := c.Destroy(); derr != nil {
			logrus.Warn(derr)
		}
		os.Remove(e.root)
		return made{}, err
	}
	crash.Point("engine.create.started")
	return made{
		pid:    pid,
		fifo:   filepath.Join(e.root, e.id, "exec.fifo"), // libcontainer's protocol
		delete: e.root != stateDir || hasPoststop(spec) || cgroup.UsesSystemd(spec.Linux.CgroupsPath) || spec.Linux.IntelRdt != nil,
		status: status,
	}, nil
}

func (e *embedded) start(context.Context) error {
	return errors.New("init is started by its FIFO")
}

func (e *embedded) exec(_ context.Context, p *specs.Process, st stdio) (int, error) {
	c, err := libcontainer.Load(e.root, e.id)
	if err != nil {
		return 0, err
	}
	state, err := c.State()
	if err == nil {
		err = checkRunnable(state.InitProcessPid, p)
	}
	if err != nil {
		return 0, err
	}
	pid, status, err := e.begin(c, p, st, false)
	crash.Point("engine.exec.started")
	if err != nil {
		return 0, err
	}
	defer status.Close()
	kind, text, err := ask.Unrunnable(status)
	if err == nil && text != "" {
		err = &unrunnable{kind, text}
	}
	return pid, err
}

// begin begins a process. It is its program when status is at its end; until then it may say why it cannot be.
func (e *embedded) begin(c *libcontainer.Container, sp *specs.Process, st stdio, init bool) (pid int, status *os.File, err error) {
	p, err := newProcess(sp)
	if err != nil {
		return 0, nil, err
	}
	p.Init = init
	if st.terminal != nil {
		p.ConsoleSocket = st.terminal
	} else {
		p.Stdin, p.Stdout, p.Stderr = st.files[0], st.files[1], st.files[2]
	}
	config := c.Config()
	filter, err := bpf.Open(e.filters, config.Seccomp)
	if err != nil {
		return 0, nil, err
	}
	status, w, err := os.Pipe()
	if err != nil {
		return 0, nil, errors.Join(err, filter.Close())
	}
	p.ExtraFiles = []*os.File{w, filter.File()} // statusFd and filterFd
	err = c.Start(p)
	w.Close()
	if err == nil {
		pid, err = p.Pid()
	}
	if err == nil && init {
		filter.Keep()
	} else {
		filter.Close()
	}
	if err != nil {
		status.Close()
		return 0, nil, err
	}
	return pid, status, nil
}

func (e *embedded) remove(context.Context) error {
	c, err := libcontainer.Load(e.root, e.id)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Destroy()
}

func (e *embedded) update(_ context.Context, res *specs.LinuxResources) error {
	c, err := libcontainer.Load(e.root, e.id)
	if err != nil {
		return err
	}
	config := c.Config()
	merge(config.Cgroups.Resources, res)
	// Rules that somebody else added for a device of his stay.
	config.Cgroups.SkipDevices = true
	return c.Set(config)
}
