// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/engine/ask"
)

// watchChildren reaps every child, and takes the signals that would end the process: a supervisor does not
// die of a stray one. They are caught and not ignored, because an ignored signal stays so in the container.
func (s *server) watchChildren() {
	// A full channel loses signals: one of another kind must not take SIGCHLD's place.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCHLD)
	go func() {
		for range c {
			s.reap()
		}
	}()
}

// reap collects all children that have ended.
func (s *server) reap() {
	for {
		// Under the lock, so that nobody signals a pid that has just become free.
		s.mu.Lock()
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			s.mu.Unlock()
			continue
		}
		if pid <= 0 || err != nil {
			s.mu.Unlock()
			return
		}
		s.reaped(pid, ending{status: exitStatus(ws), at: time.Now().UTC()})
		s.mu.Unlock()
	}
}

// reaped tells who waits for it that a child has ended; mu is held.
func (s *server) reaped(pid int, end ending) {
	switch gone := s.loggers[pid]; {
	case gone != nil:
		delete(s.loggers, pid)
		close(gone)
	case s.helpers[pid]:
		delete(s.helpers, pid)
	default:
		if p := s.byPid(pid); p != nil {
			p.reaped(end)
		} else if s.engines > 0 {
			// The engine may not have told yet whose pid this is.
			s.early[pid] = end
		}
	}
}

type ending struct {
	status uint32
	at     time.Time
}

func exitStatus(ws unix.WaitStatus) uint32 {
	if ws.Signaled() {
		return 128 + uint32(ws.Signal())
	}
	return uint32(ws.ExitStatus())
}

// engineProcess is an engine that has not been asked yet.
type engineProcess struct {
	s    *server
	conn *os.File
}

func (t *task) spawnEngine(verb string) (*engineProcess, error) {
	s := t.s
	ours, theirs, err := ask.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	e := &engineProcess{s: s, conn: ours}
	s.mu.Lock()
	// The engine ends its process group when our end of the socket closes with us.
	attr := &syscall.SysProcAttr{Setpgid: true}
	if verb == ask.Create {
		attr.Cloneflags = unix.CLONE_NEWNS // it mounts the container's rootfs
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"ctr-shim", "engine", verb, t.id}, &syscall.ProcAttr{
		Dir:   t.bundle,
		Env:   engineEnv(),
		Files: []uintptr{0, 2, 2, theirs.Fd()},
		Sys:   attr,
	})
	if err == nil {
		s.helpers[pid] = true
	}
	s.mu.Unlock()
	if err != nil {
		e.close()
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	return e, nil
}

// startLogger starts a logging program; the channel is closed when it has been reaped.
func (s *server) startLogger(argv []string, attr *syscall.ProcAttr) (pid int, gone chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err = syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return 0, nil, err
	}
	gone = make(chan struct{})
	s.loggers[pid] = gone
	return pid, gone, nil
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

// run asks the engine and waits for its answer. The process that it made is claimed for p, if any.
func (e *engineProcess) run(r ask.Request, p *process, files ...*os.File) error {
	defer e.close()
	if p != nil {
		defer e.s.expect()()
	}
	var res ask.Result
	var got []*os.File
	err := ask.Send(e.conn, r, files...)
	if err == nil {
		got, err = ask.Receive(e.conn, &res)
	}
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET):
		return &engineError{"the engine died: see shim.log", errdefs.ErrUnknown}
	case err != nil:
		return err
	case res.Error != "":
		return &engineError{res.Error, kindOf(res.Kind)}
	case p == nil:
		return nil
	}
	p.made = res
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

// ask runs an engine for one request.
func (t *task) ask(verb string, r ask.Request, p *process, files ...*os.File) error {
	e, err := t.spawnEngine(verb)
	if err != nil {
		return err
	}
	r.Engine = t.engine()
	return e.run(r, p, files...)
}

// engine is the one that the options of Create name. The state of the embedded engine is always in the bundle.
func (t *task) engine() ask.Engine {
	o := t.options
	e := ask.Engine{Binary: o.BinaryName, SystemdCgroup: o.SystemdCgroup}
	if o.BinaryName != "" && o.Root != "" {
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

// startDetached starts a program in a session of its own, in the root directory, and outside of the cgroup that
// supervisors share, which the program may have to remove.
func startDetached(argv []string) error {
	err := cgroup.StartAbove(func(sys *syscall.SysProcAttr) error {
		sys.Setsid = true
		_, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Dir: "/", Env: os.Environ(), Files: []uintptr{0, 2, 2}, Sys: sys})
		return err
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", argv[0], err)
	}
	return nil
}
