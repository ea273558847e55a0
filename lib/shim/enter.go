// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine"
	"ctrd.dev/ctrd/lib/engine/ask"
)

// put puts an exec into the container: by ourselves, where that can be done and works, and else by an engine, which also has
// the words for what is wrong. What a container has not let us do once is not tried again.
func (t *task) put(p *process, r ask.Request, files ...*os.File) error {
	done, begun, err := t.enterAlone(p, r, files)
	if done {
		return err
	}
	go cgroup.Hasten() // an engine moves the process
	if err = t.ask(ask.Exec, r, p, files...); err == nil && begun {
		t.s.mu.Lock()
		t.closed = true
		t.s.mu.Unlock()
	}
	return err
}

// entering is an exec that is being put into the container without an engine.
type entering struct {
	*engine.Entering
	t    *task
	into *process // init

	// Guarded by the server's mu.
	group int             // the process group of the process that was started
	left  []chan struct{} // one for each process of the group: closed when it has been reaped
	last  int             // pid of the one that is to become the program
}

// enterAlone puts an exec into the container without an engine. Where it is not done, nothing of it is left, and an engine is to
// try; begun says that it was no more than begun.
func (t *task) enterAlone(p *process, r ask.Request, files []*os.File) (done, begun bool, err error) {
	t.s.mu.Lock()
	init, closed := t.init, t.closed
	t.s.mu.Unlock()
	if init == nil || closed || t.options.BinaryName != "" || t.options.Root != "" {
		return false, false, nil
	}
	var lock *os.File
	if t.engines != nil {
		lock = t.engines.File()
	}
	way, err := within(init, func() (*engine.Entering, error) { return engine.Enter(t.bundle, t.id, init.pid, r, files, lock) })
	if late := (*engineError)(nil); errors.As(err, &late) {
		return true, false, err
	}
	if err != nil {
		return false, false, nil
	}
	defer way.Close()
	e := &entering{Entering: way, t: t, into: init}
	defer t.s.expect()()
	if err := e.spawn(); err != nil {
		return false, false, nil
	}
	crash.Point("shim.exec-spawned")
	entered, late := make(chan struct{}), make(chan error, 1)
	go func() { late <- e.attend(entered) }()
	said, err := e.become()
	close(entered)
	if killed := <-late; killed != nil && err != nil {
		e.giveUp()
		return true, true, killed
	}
	if err != nil {
		e.giveUp()
		return false, true, nil
	}
	if said != "" {
		t.logf("exec %q: %s", p.execID, said)
	}
	crash.Point("shim.exec-entered")
	e.claim(p)
	return true, true, nil
}

// The reasons for which an exec is given up.
var (
	errExecLate  = &engineError{fmt.Sprintf("the exec was killed: it was not the program within %v", engineTime), context.DeadlineExceeded}
	errExecEnded = &engineError{"the exec was killed: its container has ended", errdefs.ErrFailedPrecondition}
)

// within prepares an exec, but not for longer than the container runs or an engine may take: the file system of the program may hang.
func within(init *process, prepare func() (*engine.Entering, error)) (*engine.Entering, error) {
	type prepared struct {
		way *engine.Entering
		err error
	}
	done := make(chan prepared, 1)
	go func() {
		way, err := prepare()
		done <- prepared{way, err}
	}()
	limit := time.NewTimer(engineTime)
	defer limit.Stop()
	err := errExecLate
	select {
	case p := <-done:
		return p.way, p.err
	case <-limit.C:
	case <-init.died:
		err = errExecEnded
	}
	go func() {
		if p := <-done; p.way != nil {
			p.way.Close()
		}
	}()
	return nil, err
}

// spawn starts the first process.
func (e *entering) spawn() (err error) {
	s := e.t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if isClosed(e.into.died) {
		return errdefs.ErrFailedPrecondition // its namespaces are named by its pid
	}
	if e.group, err = e.Spawn(); err == nil {
		e.disown(e.group)
	}
	return err
}

// become waits until the process is the program.
func (e *entering) become() (said string, err error) {
	s := e.t.s
	next, err := e.Join(e.group)
	if err != nil {
		return "", err
	}
	if next != e.group {
		s.mu.Lock()
		e.disown(next)
		s.mu.Unlock()
	}
	first, last, err := e.Fork()
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	e.disown(first)
	e.last = last
	reaped := isClosed(e.into.died)
	s.mu.Unlock()
	if reaped { // then the namespaces may be those of another process, which has got its pid
		return "", errdefs.ErrFailedPrecondition
	}
	crash.Point("shim.exec-forked")
	return e.Become(e.with)
}

// with calls fn with the pid of the last process, which keeps it meanwhile.
func (e *entering) with(fn func(pid int) error) error {
	s := e.t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ended := s.early[e.last]; ended {
		return unix.ESRCH
	}
	return fn(e.last)
}

// disown says that nobody waits for a child, which is about to end or has ended; mu is held, and ends of children that nobody
// knows are kept.
func (e *entering) disown(pid int) {
	s := e.t.s
	if _, ended := s.early[pid]; ended {
		delete(s.early, pid)
		return
	}
	gone := make(chan struct{})
	s.helpers[pid] = gone
	e.left = append(e.left, gone)
}

// claim makes the last process that of p.
func (e *entering) claim(p *process) {
	s := e.t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	p.pid = e.last
	if end, ended := s.early[e.last]; ended {
		delete(s.early, e.last)
		p.reaped(end)
	}
}

// giveUp kills what was started, and waits until it is gone.
func (e *entering) giveUp() {
	s := e.t.s
	s.mu.Lock()
	e.kill()
	if e.last != 0 {
		e.disown(e.last)
	}
	left := e.left
	s.mu.Unlock()
	e.Close()
	late := time.After(drainTime)
	for _, gone := range left {
		select {
		case <-gone:
		case <-late:
			return // one that hangs in the kernel, or is frozen
		}
	}
}

// kill kills what was started; mu is held. A process that has not been reaped keeps its pid, and that of its group.
func (e *entering) kill() {
	if slices.ContainsFunc(e.left, func(gone chan struct{}) bool { return !isClosed(gone) }) {
		unix.Kill(-e.group, unix.SIGKILL)
	}
	if _, ended := e.t.s.early[e.last]; e.last != 0 && !ended {
		unix.Kill(e.last, unix.SIGKILL)
	}
}

// attend gives the exec up when it is late, or when the container has ended, and says so.
func (e *entering) attend(entered chan struct{}) error {
	limit := time.NewTimer(engineTime)
	defer limit.Stop()
	err := errExecLate
	select {
	case <-entered:
		return nil
	case <-limit.C:
	case <-e.into.died:
		limit.Reset(drainTime)
		select {
		case <-entered:
			return nil
		case <-limit.C:
			err = errExecEnded
		}
	}
	e.t.s.mu.Lock()
	e.kill()
	e.t.s.mu.Unlock()
	e.Interrupt()
	return err
}
