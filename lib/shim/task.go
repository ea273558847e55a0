// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Create sets the container up; its init process waits for Start. A supervisor whose Create fails has
// left nothing behind and ends.
func (s *server) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	p := s.newProcess("", r.Terminal, r.Stdin, r.Stdout, r.Stderr)
	p.op.Lock()
	defer p.op.Unlock()
	if err := s.claim(r); err != nil {
		return nil, err
	}
	err := s.create(p, r)
	if err != nil {
		s.undo(p)
		s.end()
		return nil, err
	}
	s.emit(event.TaskCreate{
		ContainerID: r.ID, Bundle: s.dir, Pid: uint32(p.pid),
		IO: &event.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	return &taskapi.CreateTaskResponse{Pid: uint32(p.pid)}, nil
}

// claim admits one Create.
func (s *server) claim(r *taskapi.CreateTaskRequest) error {
	if err := s.check(r.ID); err != nil {
		return err
	}
	if r.Checkpoint != "" {
		return fmt.Errorf("create container %q from a checkpoint: %w", r.ID, errdefs.ErrNotImplemented)
	}
	if r.Bundle != "" {
		want, err := os.Stat(r.Bundle)
		if err != nil {
			return fmt.Errorf("bundle %q: %w: %w", r.Bundle, err, errdefs.ErrInvalidArgument)
		}
		if have, err := os.Stat("."); err != nil || !os.SameFile(want, have) {
			return fmt.Errorf("bundle %q is not the supervisor's %q: %w", r.Bundle, s.dir, errdefs.ErrInvalidArgument)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.created {
		return fmt.Errorf("container %q: %w", r.ID, errdefs.ErrAlreadyExists)
	}
	s.created = true
	return nil
}

func (s *server) create(p *process, r *taskapi.CreateTaskRequest) error {
	req := ask.Request{Terminal: r.Terminal}
	if err := readOptions(r.Options, &req); err != nil {
		s.engine.close()
		return err
	}
	if _, err := ask.Receive(s.engine.conn, &s.hello); err != nil {
		s.engine.close()
		return fmt.Errorf("engine: %w", err)
	}
	err := mountRootfs(filepath.Join(s.dir, taskdir.Rootfs), r.Rootfs, s.hello.Shared)
	if err == nil {
		crash.Point("shim.rootfs")
		p.io, err = s.openStreams(p)
	}
	if err != nil {
		s.engine.close()
		return err
	}
	s.mu.Lock()
	s.init = p
	s.mu.Unlock()
	err = s.engine.run(req, p, p.io.give...)
	crash.Point("shim.created")
	if err == nil {
		err = p.io.begin()
	}
	if err != nil {
		return err
	}
	init, err := taskdir.ProcessOf(p.pid)
	if err != nil {
		return err
	}
	if err := taskdir.Write("", taskdir.Init, init); err != nil {
		return err
	}
	s.setStatus(p, taskapi.StatusCreated)
	crash.Point("shim.init-recorded")
	return nil
}

// undo takes back what a Create that failed has made.
func (s *server) undo(p *process) {
	s.mu.Lock()
	s.init = nil
	s.mu.Unlock()
	if s.hello.CgroupsPath != "" {
		if err := errors.Join(cgroup.Kill(s.hello.CgroupsPath), cgroup.Remove(s.hello.CgroupsPath)); err != nil {
			s.logf("undo create: %v", err)
		}
	}
	if p.io != nil {
		p.io.close()
	}
	if err := errors.Join(unmountRootfs(s.dir), os.RemoveAll(taskdir.Engine)); err != nil {
		s.logf("undo create: %v", err)
	}
}

func (s *server) setStatus(p *process, st taskapi.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.status = st
}

// optionsURL is the type of the options that containerd's clients send for a runc-like engine
// (containerd/api, types/runc/options/oci.proto).
const optionsURL = "containerd.runc.v1.Options"

func readOptions(a *taskapi.Any, to *ask.Request) error {
	if a == nil || a.TypeURL != optionsURL {
		return nil
	}
	for b := a.Value; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("options: %w: %w", protowire.ParseError(n), errdefs.ErrInvalidArgument)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return fmt.Errorf("options: %w: %w", protowire.ParseError(n), errdefs.ErrInvalidArgument)
		}
		if typ == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b)
			switch num {
			case 1:
				to.NoPivotRoot = v != 0
			case 2:
				to.NoNewKeyring = v != 0
			}
		}
		b = b[n:]
	}
	return nil
}

// Start runs init or an exec.
func (s *server) Start(_ context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.op.Lock()
	defer p.op.Unlock()
	if p.execID == "" {
		err = p.startInit()
	} else {
		err = p.startExec()
	}
	if err != nil {
		return nil, err
	}
	return &taskapi.StartResponse{Pid: uint32(p.pid)}, nil
}

// startInit lets the waiting init process become the container's program: it opens the other end of the
// FIFO on which that waits (libcontainer's protocol) and reads its one byte.
func (p *process) startInit() error {
	s := p.s
	s.mu.Lock()
	st := p.status
	s.mu.Unlock()
	if st != taskapi.StatusCreated || isClosed(p.died) {
		return p.wrong("start")
	}
	path := filepath.Join(taskdir.Engine, s.config.ID, "exec.fifo")
	// With both ends open here a read waits for the byte, instead of meeting the end of the file while
	// init has not opened its end yet.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start container %q: %w", s.config.ID, &os.PathError{Op: "open", Path: path, Err: err})
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	got := make(chan struct{})
	go func() {
		select {
		case <-p.died:
			f.SetReadDeadline(time.Unix(1, 0))
		case <-got:
		}
	}()
	var b [1]byte
	_, err = f.Read(b[:])
	close(got)
	if err != nil {
		// It may have run and ended in the meantime: then the byte is there.
		if n, _ := unix.Read(fd, b[:]); n != 1 {
			return fmt.Errorf("start container %q: init died: %w", s.config.ID, errdefs.ErrFailedPrecondition)
		}
	}
	os.Remove(path)
	s.setStatus(p, taskapi.StatusRunning)
	if p.io.stdin != nil {
		go p.watchClient()
	}
	s.emit(event.TaskStart{ContainerID: s.config.ID, Pid: uint32(p.pid)})
	crash.Point("shim.started")
	return nil
}
