// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/taskapi"
)

// server is the one task and its processes.
type server struct {
	config  Config
	dir     string // the task directory
	socket  string
	journal event.Journal
	events  eventQueue
	log     logs
	outside *os.File // the mount namespace to leave things in

	life context.Context // ends with the supervisor
	end  context.CancelFunc

	mu      sync.Mutex
	init    *process            // nil before Create
	execs   map[string]*process // by exec id
	paused  bool
	ending  bool           // nothing new may begin in the container
	created bool           // Create has been called
	running sync.WaitGroup // engines that put processes into the container
	engines int            // engines that may still tell a pid
	early   map[int]ending // children that ended before the engine told whose they are
	helpers map[int]bool   // engines that have not been reaped, by pid

	engine *engineProcess // prepared for Create
	hello  ask.Hello
}

// process is init or an exec.
type process struct {
	s                     *server
	execID                string // empty for init
	terminal              bool
	stdin, stdout, stderr string

	// op is held by what changes the process: Start, and what follows its end.
	op sync.Mutex

	// Guarded by the server's mu.
	pid    int
	status taskapi.Status // created, running, stopped
	end    ending
	reason string

	io   *streams
	died chan struct{} // closed when the process has been reaped
	done chan struct{} // closed when its end is recorded and may be told
}

func (s *server) newProcess(execID string, terminal bool, stdin, stdout, stderr string) *process {
	return &process{
		s: s, execID: execID, terminal: terminal, stdin: stdin, stdout: stdout, stderr: stderr,
		died: make(chan struct{}), done: make(chan struct{}),
	}
}

// reaped notes how the process ended; the server's mu is held.
func (p *process) reaped(end ending) {
	p.end = end
	close(p.died)
	go p.finish()
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// byPid finds a process that has not been reaped; mu is held.
func (s *server) byPid(pid int) *process {
	if p := s.init; p != nil && p.pid == pid && !isClosed(p.died) {
		return p
	}
	for _, p := range s.execs {
		if p.pid == pid && !isClosed(p.died) {
			return p
		}
	}
	return nil
}

// find looks up init (execID empty) or an exec; mu is held.
func (s *server) find(id, execID string) (*process, error) {
	if err := s.check(id); err != nil {
		return nil, err
	}
	if execID == "" {
		if s.init == nil {
			return nil, fmt.Errorf("container %q is not created: %w", id, errdefs.ErrNotFound)
		}
		return s.init, nil
	}
	p := s.execs[execID]
	if p == nil {
		return nil, fmt.Errorf("exec %q of container %q: %w", execID, id, errdefs.ErrNotFound)
	}
	return p, nil
}

func (s *server) get(id, execID string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(id, execID)
}

func (s *server) check(id string) error {
	if id != s.config.ID {
		return fmt.Errorf("container %q is not this one (%q): %w", id, s.config.ID, errdefs.ErrNotFound)
	}
	return nil
}

// state is the process's status as a client is told; mu is held. A process has stopped once its end is
// recorded.
func (p *process) state() taskapi.Status {
	if p.execID == "" && p.s.paused && p.status == taskapi.StatusRunning {
		return taskapi.StatusPaused
	}
	return p.status
}

func (p *process) wrong(what string) error {
	name := "container " + quote(p.s.config.ID)
	if p.execID != "" {
		name = "exec " + quote(p.execID) + " of " + name
	}
	return fmt.Errorf("%s %s: it is %s: %w", what, name, p.state(), errdefs.ErrFailedPrecondition)
}

func quote(s string) string { return fmt.Sprintf("%q", s) }

func (s *server) hasStarted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.init != nil && s.init.status != taskapi.StatusCreated && s.init.status != taskapi.StatusUnknown
}

// abandon ends the container, or the wait for one, and with it the supervisor. A Create that is under way
// is not disturbed.
func (s *server) abandon(reason string) {
	s.mu.Lock()
	p, created := s.init, s.created
	s.created = true
	if p != nil && p.pid > 0 && !isClosed(p.died) && p.reason == "" {
		s.logf("%s", reason)
		p.reason = reason
		unix.Kill(p.pid, unix.SIGKILL)
	}
	s.mu.Unlock()
	if !created {
		s.logf("%s", reason)
		s.engine.close()
		s.end()
	}
}
