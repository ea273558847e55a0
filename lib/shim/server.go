// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
)

// server is the supervisor: what its tasks share.
type server struct {
	config Config
	events publisher
	buffer sharedBuffer

	life context.Context // ends with the supervisor
	end  context.CancelFunc
	// What follows the ends of tasks and must not be cut short by the end of the supervisor.
	endings sync.WaitGroup
	closing chan struct{} // closed, under mu, when the supervisor is to end with its containers

	mu       sync.Mutex
	tasks    map[string]*task      // by container id
	sandbox  *sandbox              // nil when there is none
	podLock  *lock.Held            // shim.lock of a pod
	lastLock *lock.Held            // start.lock of a pod that was given up
	podPipe  *os.File              // keeps podInit alive
	podInit  int                   // pid of the first process of a pod's PID namespace; 0: there is none
	prepared *engineProcess        // for the Create of the container that it was started for
	engines  int                   // engines that were asked for a process and have not told its pid
	early    map[int]ending        // children that ended before the engine told whose they are
	helpers  map[int]chan struct{} // engines, by pid; closed when they have been reaped
	loggers  map[int]chan struct{} // logging programs, by pid; closed when they have been reaped
}

func newServer(c Config) *server {
	return &server{
		config: c, tasks: make(map[string]*task), closing: make(chan struct{}),
		helpers: make(map[int]chan struct{}), loggers: make(map[int]chan struct{}),
	}
}

// task finds a container; mu is held.
func (s *server) task(id string) (*task, error) {
	t := s.tasks[id]
	if t == nil {
		return nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	return t, nil
}

// find looks up init (execID empty) or an exec; mu is held.
func (s *server) find(id, execID string) (*process, error) {
	t, err := s.task(id)
	if err != nil {
		return nil, err
	}
	return t.find(execID)
}

func (s *server) get(id, execID string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(id, execID)
}

// byPid finds a process that has not been reaped; mu is held.
func (s *server) byPid(pid int) *process {
	for _, t := range s.tasks {
		if p := t.byPid(pid); p != nil {
			return p
		}
	}
	return nil
}

// leave ends the supervisor when it has nothing left to supervise. One of containerd's stays until Shutdown.
func (s *server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (isClosed(s.closing) || !s.config.Containerd && s.sandbox == nil) && s.idle() {
		s.end()
	}
}

// idle tells whether all containers have ended; mu is held.
func (s *server) idle() bool {
	for _, t := range s.tasks {
		if !isClosed(t.over) && t != s.first() {
			return false
		}
	}
	return true
}

// abandon ends all containers, or the wait for the first one, and with them the supervisor. A container whose Create
// is under way is ended once it is there.
func (s *server) abandon(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endAll(reason)
}

// endAll is abandon; mu is held.
func (s *server) endAll(reason string) {
	if !isClosed(s.closing) {
		close(s.closing)
	}
	for _, t := range s.tasks {
		t.kill(reason)
	}
	if s.idle() && s.life.Err() == nil {
		s.logf("%s", reason)
		if e := s.prepared; e != nil {
			s.prepared = nil
			go e.close()
		}
		s.end()
	}
}

// refuses says why no container may begin any more; mu is held.
func (s *server) refuses() error {
	switch b := s.sandbox; {
	case isClosed(s.closing) || s.life.Err() != nil:
		return fmt.Errorf("the supervisor ends: %w", errdefs.ErrUnavailable)
	case b != nil && b.stopping:
		return fmt.Errorf("sandbox %q was stopped: %w", b.id, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Connect tells who the supervisor is.
func (s *server) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: strconv.Itoa(Version)}
	if t := s.tasks[r.ID]; t != nil && t.init != nil {
		out.TaskPid = uint32(t.init.pid)
	}
	return out, nil
}

// done tells whether nothing is left to do but to wait for clients that remove their containers; mu is held.
func (s *server) done() bool {
	for _, t := range s.tasks {
		if !isClosed(t.over) && !t.lingers && t != s.first() {
			return false
		}
	}
	return true
}

// Shutdown ends the supervisor when it has no container, or, with Now, its containers as well. A container of
// containerd's is there until it is deleted. A client that has removed its container asks for it, so that the
// supervisor need not find that out.
func (s *server) Shutdown(_ context.Context, r *taskapi.ShutdownRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	idle := s.done()
	if s.config.Containerd {
		idle = len(s.tasks) == 0 || len(s.tasks) == 1 && s.first() != nil
	}
	if idle && s.sandbox == nil || r.Now {
		s.endAll("shut down")
	}
	return nil
}
