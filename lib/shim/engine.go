// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine/ask"
)

// engineProcess is an engine that has not been asked yet.
type engineProcess struct {
	s     *server
	pid   int
	gone  chan struct{} // closed when it has been reaped
	conn  *os.File
	limit time.Duration // of its answer
	ended chan struct{} // closed when there is no container any more to do something in; nil: that is no matter
}

// engineTime bounds how long an engine may take for one request. It is enough for an OCI engine, which has a minute for
// each call and may make three, and for layers that are copied because their owners cannot be mapped, beside
// what the hooks may take.
const engineTime = 5 * time.Minute

func (t *task) spawnEngine(verb string) (*engineProcess, error) {
	s := t.s
	ours, theirs, err := ask.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	e := &engineProcess{s: s, conn: ours, gone: make(chan struct{}), limit: engineTime}
	s.mu.Lock()
	// The engine ends its process group when our end of the socket closes with us.
	attr := &syscall.SysProcAttr{Setpgid: true}
	if verb == ask.Create || verb == ask.Restore {
		attr.Cloneflags = unix.CLONE_NEWNS // it mounts the container's rootfs
	}
	files := []uintptr{0, 2, 2, theirs.Fd()}
	if t.engines != nil {
		files = append(files, t.engines.File().Fd())
	}
	e.pid, err = syscall.ForkExec("/proc/self/exe", []string{"ctr-shim", "engine", verb, t.id}, &syscall.ProcAttr{
		Dir:   t.bundle,
		Env:   engineEnv(),
		Files: files,
		Sys:   attr,
	})
	if err == nil {
		s.helpers[e.pid] = e.gone
	}
	s.mu.Unlock()
	if err != nil {
		e.close()
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	return e, nil
}

// endEngines ends what engines are left, so that no process outlives the supervisor: one that was not
// asked is about to end, one that hangs in the kernel is not waited for.
func (s *server) endEngines() {
	for range 1000 {
		s.mu.Lock()
		left := len(s.helpers)
		for pid := range s.helpers {
			unix.Kill(-pid, unix.SIGKILL)
		}
		s.mu.Unlock()
		if left == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// engineEnv is our environment without GOMAXPROCS, which whoever starts us sets to 1 for the sake of our
// size: the engine is to be quick.
func engineEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GOMAXPROCS=") })
}

// close ends an engine that was not asked, or gives up what it may still tell.
func (e *engineProcess) close() { e.conn.Close() }

// expect keeps the ends of children that nobody knows, until the caller has learnt its child's pid and calls done.
// An engine that was not asked, or makes no process, is no reason to keep them: it may live as long as the
// supervisor, and pids come again.
func (s *server) expect() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engines++
	if s.early == nil {
		s.early = make(map[int]ending)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.engines--
		if s.engines == 0 {
			s.early = nil
		}
	}
}

// run asks the engine and waits for its answer, within bounds. The process that it made is claimed for p, if any. When it
// returns, the engine can do nothing more.
func (e *engineProcess) run(r ask.Request, p *process, files ...*os.File) error {
	defer e.close()
	if p != nil {
		defer e.s.expect()()
	}
	answered, late := make(chan struct{}), make(chan error, 1)
	go func() { late <- e.attend(answered) }()
	var res ask.Result
	var got []*os.File
	err := ask.Send(e.conn, r, files...)
	if err == nil {
		got, err = ask.Receive(e.conn, &res)
	}
	close(answered)
	if killed := <-late; killed != nil && err != nil {
		err = killed
	}
	switch {
	case err != nil:
		return e.silent(err)
	case p == nil && res.Error == "":
		return nil
	case p != nil:
		p.made = res
	}
	if res.Error != "" {
		return &engineError{res.Error, kindOf(res.Kind)}
	}
	if len(got) == 1 {
		p.becoming = got[0]
	}
	s := e.s
	s.mu.Lock()
	defer s.mu.Unlock()
	p.pid = res.Pid
	if end, ok := s.early[res.Pid]; ok {
		delete(s.early, res.Pid)
		p.reaped(end)
	}
	return nil
}

// attend kills the engine when it does not answer in time, and says so.
func (e *engineProcess) attend(answered chan struct{}) error {
	limit := time.NewTimer(e.limit)
	defer limit.Stop()
	err := &engineError{fmt.Sprintf("the engine was killed: no answer within %v", e.limit), context.DeadlineExceeded}
	select {
	case <-answered:
		return nil
	case <-limit.C:
	case <-e.ended:
		// The end of a container is not recorded before its engines have ended.
		limit.Reset(drainTime)
		select {
		case <-answered:
			return nil
		case <-limit.C:
			err = &engineError{"the engine was killed: no answer, and its container has ended", errdefs.ErrFailedPrecondition}
		}
	}
	e.kill()
	// One that hangs in the kernel is not waited for.
	e.conn.SetDeadline(time.Unix(1, 0))
	return err
}

// kill ends the engine and what it has started in its process group.
func (e *engineProcess) kill() {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	if !isClosed(e.gone) {
		unix.Kill(-e.pid, unix.SIGKILL)
	}
}

// awaitGone waits until the process of an engine that does nothing more is gone.
func (e *engineProcess) awaitGone() {
	select {
	case <-e.gone:
	case <-time.After(drainTime):
	}
}

// silent waits until an engine that has not answered is gone, with what it has started, and gives the error.
func (e *engineProcess) silent(err error) error {
	e.awaitGone()
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return &engineError{"the engine died: see shim.log", errdefs.ErrUnknown}
	}
	return err
}

// ask runs an engine for one request.
func (t *task) ask(verb string, r ask.Request, p *process, files ...*os.File) error {
	e, err := t.spawnEngine(verb)
	if err != nil {
		return err
	}
	r.Engine = t.engine()
	switch verb {
	case ask.Start:
		e.limit += t.hello.HookTime
	case ask.Delete:
		e.limit += t.hello.PoststopTime
	}
	if verb != ask.Delete {
		t.s.mu.Lock()
		if t.init != nil {
			e.ended = t.init.died
		}
		t.s.mu.Unlock()
	}
	return e.run(r, p, files...)
}

// engine is the one that the options of Create name. Where they name no state directory, the embedded engine's is in the
// bundle.
func (t *task) engine() ask.Engine {
	o := t.options
	e := ask.Engine{Binary: o.BinaryName, SystemdCgroup: o.SystemdCgroup}
	if o.Root != "" {
		// As containerd's own shim has it: ids are unique in a namespace alone.
		e.Root = filepath.Join(o.Root, t.s.config.Namespace)
	}
	return e
}

// engineError is a failure in the engine's own words.
type engineError struct {
	text string
	kind error
}

func (e *engineError) Error() string { return e.text }
func (e *engineError) Unwrap() error { return e.kind }

func kindOf(k ask.Kind) error {
	switch k {
	case ask.NotFound:
		return errdefs.ErrNotFound
	case ask.NotExecutable:
		return errdefs.ErrPermissionDenied
	case ask.TimedOut:
		return context.DeadlineExceeded
	}
	return errdefs.ErrUnknown
}
