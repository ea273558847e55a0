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

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/footprint"
	"ctrd.dev/ctrd/lib/taskapi"
)

// Start runs init or an exec.
func (s *server) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.op.Lock()
	defer p.op.Unlock()
	if p.execID == "" {
		err = p.startInit(ctx)
	} else if err = p.startExec(); err != nil {
		p.t.awaitEnd(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &taskapi.StartResponse{Pid: uint32(p.pid)}, nil
}

// awaitEnd waits, if init has died, until that is recorded: a client whose exec fails for it then finds the task stopped.
// The last of several execs waits, since the record waits for all of them.
func (t *task) awaitEnd(ctx context.Context) {
	t.s.mu.Lock()
	init, others := t.init, t.entering
	t.s.mu.Unlock()
	if init == nil || others > 0 || !isClosed(init.died) {
		return
	}
	select {
	case <-init.done:
	case <-init.dropped:
	case <-ctx.Done():
	}
}

// startInit runs the container's program.
func (p *process) startInit(ctx context.Context) error {
	t, s := p.t, p.t.s
	s.mu.Lock()
	st := p.status
	s.mu.Unlock()
	if st != taskapi.StatusCreated || isClosed(p.died) {
		return p.wrong("start", st)
	}
	if err := t.recordStarted(); err != nil {
		return fmt.Errorf("start container %q: %w", t.id, err)
	}
	letGo := func() error { return t.letGo(ctx, p) }
	if p.frozen != nil {
		letGo = func() error { return t.thawOut(p) }
	}
	if err := letGo(); err != nil {
		t.recordNotStarted()
		return fmt.Errorf("start container %q: %w", t.id, err)
	}
	p.setStatus(taskapi.StatusRunning)
	s.emit(event.TaskStart{ContainerID: t.id, Pid: uint32(p.pid)})
	time.AfterFunc(quietAfter, func() {
		if err := footprint.ForgetCode(); err != nil {
			s.logf("forget the code of the start: %v", err)
		}
	})
	crash.Point("shim.started")
	return nil
}

// quietAfter is when a supervisor that is still there has little to do.
const quietAfter = 5 * time.Second

// startTime bounds how long init may take to answer Start. One that somebody has stopped or frozen does not.
const startTime = time.Minute

// letGo lets the waiting init process become the container's program, and waits until it has. It does not end with the
// client's connection: a Start of which the client does not see the end is not taken back.
func (t *task) letGo(ctx context.Context, p *process) error {
	if p.made.FIFO == "" {
		return t.ask(ask.Start, ask.Request{Timeout: ask.DefaultTimeout + t.hello.HookTime}, nil)
	}
	path := p.made.FIFO
	if !filepath.IsAbs(path) {
		path = t.path(path)
	}
	by := time.Now().Add(startTime)
	if client, ok := ctx.Deadline(); ok && client.Before(by) {
		by = client
	}
	if err := t.openFIFO(p, path, by); err != nil {
		return err
	}
	if p.becoming == nil {
		return nil
	}
	p.becoming.SetReadDeadline(time.Now().Add(programWait))
	kind, text, err := ask.Unrunnable(p.becoming)
	p.becoming.Close()
	p.becoming = nil
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // it is on its way, or paused
	}
	if err != nil || text == "" {
		return err
	}
	<-p.died
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	// What it has ended with says nothing of why.
	p.reason, p.end.status = text, notExecutable
	if kind == ask.NotFound {
		p.end.status = notFound
	}
	return &engineError{text, kindOf(kind)}
}

// The exit statuses that shells give a command that cannot be run.
const (
	notExecutable = 126
	notFound      = 127
)

// openFIFO opens the other end of the FIFO on which init waits (libcontainer's protocol) and reads its one byte. When init
// has not written that in time it waits on, for another Start.
func (t *task) openFIFO(p *process, path string, by time.Time) error {
	if p.waiting != (executable{}) && executableOf(p.pid) != p.waiting && !isClosed(p.died) {
		// It has answered an earlier Start just after that had given up.
		os.Remove(path)
		return nil
	}
	// With both ends open here a read waits for the byte, instead of meeting the end of the file while
	// init has not opened its end yet.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	f.SetReadDeadline(by)
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
			if isClosed(p.died) {
				return fmt.Errorf("init died: %w", errdefs.ErrFailedPrecondition)
			}
			return fmt.Errorf("init does not answer, it may be frozen: %w", context.DeadlineExceeded)
		}
	}
	os.Remove(path)
	return nil
}
