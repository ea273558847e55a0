// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

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

// startInit runs the container's program.
func (p *process) startInit() error {
	t, s := p.t, p.t.s
	s.mu.Lock()
	st := p.status
	s.mu.Unlock()
	if st != taskapi.StatusCreated || isClosed(p.died) {
		return p.wrong("start")
	}
	if err := t.recordStarted(); err != nil {
		return fmt.Errorf("start container %q: %w", t.id, err)
	}
	if err := t.letGo(p); err != nil {
		t.recordNotStarted()
		return fmt.Errorf("start container %q: %w", t.id, err)
	}
	p.setStatus(taskapi.StatusRunning)
	s.emit(event.TaskStart{ContainerID: t.id, Pid: uint32(p.pid)})
	crash.Point("shim.started")
	return nil
}

// letGo lets the waiting init process become the container's program: it opens the other end of the FIFO on
// which that waits (libcontainer's protocol) and reads its one byte.
func (t *task) letGo(p *process) error {
	path := t.path(taskdir.Engine, t.id, "exec.fifo")
	// With both ends open here a read waits for the byte, instead of meeting the end of the file while
	// init has not opened its end yet.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
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
			return fmt.Errorf("init died: %w", errdefs.ErrFailedPrecondition)
		}
	}
	os.Remove(path)
	return nil
}
