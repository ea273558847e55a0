// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// task is one container of the supervisor: its init process and its execs. It shares nothing with the other
// tasks but what server has.
type task struct {
	s       *server
	id      string
	bundle  string        // the task directory, absolute
	record  *taskdir.Task // nil for a task of containerd's
	held    *lock.Held    // shim.lock of a task that has a record
	engines *lock.Held    // what the engines inherit
	log     logs
	told    *os.File  // what others write to the supervisor's log; nil: there is no FIFO for that
	hello   ask.Hello // what the engine read in config.json
	options taskapi.Options
	cgroup  string           // below the hierarchies
	memory  *cgroup.OOMWatch // of a scope

	started time.Time     // guarded by init's op; zero before Start
	deleted chan struct{} // closed by Delete
	over    chan struct{} // closed, by the holder of the server's mu, when nothing is left to do for it

	// Guarded by the server's mu.
	init     *process            // nil before Create
	execs    map[string]*process // by exec id
	paused   bool
	dumping  bool           // a checkpoint is being made
	closed   bool           // execs come into the container by an engine alone
	ending   bool           // nothing new may begin in the container
	lingers  bool           // it has ended, and waits for its client to remove the container
	running  sync.WaitGroup // engines that put processes into the container
	entering int            // how many those are; guarded by s.mu
}

func (s *server) newTask(id, bundle string) *task {
	t := &task{s: s, id: id, bundle: bundle, execs: make(map[string]*process), deleted: make(chan struct{}), over: make(chan struct{})}
	t.log.t = t
	return t
}

// finished notes that nothing is left to do for the task; the server's mu is held.
func (t *task) finished() {
	if !isClosed(t.over) {
		close(t.over)
	}
}

// path is the path of a file in the task directory.
func (t *task) path(name ...string) string {
	return filepath.Join(append([]string{t.bundle}, name...)...)
}

func (t *task) write(name string, v any) error { return taskdir.Write(t.bundle, name, v) }

func (t *task) logf(format string, args ...any) {
	t.s.logf("%s: "+format, append([]any{t.id}, args...)...)
}

// process is init or an exec.
type process struct {
	t                     *task
	execID                string // empty for init
	terminal              bool
	stdin, stdout, stderr string

	// op is held by what changes the process: Start, and what follows its end.
	op sync.Mutex

	// Guarded by the server's mu.
	pid      int
	status   taskapi.Status // created, running, stopped
	end      ending
	reason   string
	killedBy unix.Signal // the signal that ended an init which waited for Start

	made     ask.Result // of init: what the engine told
	becoming *os.File   // of init: see ask.Unrunnable
	frozen   *frozen    // of init: what it is restored from by Start
	waiting  executable // what init runs until it becomes the program
	io       *streams
	died     chan struct{} // closed when the process has been reaped
	done     chan struct{} // closed when its end is recorded and may be told
	dropped  chan struct{} // closed when it is forgotten and has no end to tell
}

func (t *task) newProcess(execID string, terminal bool, stdin, stdout, stderr string) *process {
	return &process{
		t: t, execID: execID, terminal: terminal, stdin: stdin, stdout: stdout, stderr: stderr,
		died: make(chan struct{}), done: make(chan struct{}), dropped: make(chan struct{}),
	}
}

// reaped notes how the process ended; the server's mu is held.
func (p *process) reaped(end ending) {
	if p.killedBy != 0 && end.status == 128+uint32(unix.SIGKILL) {
		end.status = 128 + uint32(p.killedBy)
	}
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
func (t *task) byPid(pid int) *process {
	if p := t.init; p != nil && p.pid == pid && !isClosed(p.died) {
		return p
	}
	for _, p := range t.execs {
		if p.pid == pid && !isClosed(p.died) {
			return p
		}
	}
	return nil
}

// find looks up init (execID empty) or an exec; mu is held.
func (t *task) find(execID string) (*process, error) {
	if execID == "" {
		if t.init == nil {
			return nil, fmt.Errorf("container %q is not created: %w", t.id, errdefs.ErrNotFound)
		}
		return t.init, nil
	}
	p := t.execs[execID]
	if p == nil {
		return nil, fmt.Errorf("exec %q of container %q: %w", execID, t.id, errdefs.ErrNotFound)
	}
	return p, nil
}

// state is the process's status as a client is told; mu is held. A process has stopped once its end is
// recorded.
func (p *process) state() taskapi.Status {
	if p.execID == "" && p.t.paused && p.status == taskapi.StatusRunning {
		return taskapi.StatusPaused
	}
	return p.status
}

func (p *process) setStatus(st taskapi.Status) {
	p.t.s.mu.Lock()
	defer p.t.s.mu.Unlock()
	p.status = st
}

// wrong is the error of a call that does not fit the status that it has met.
func (p *process) wrong(what string, st taskapi.Status) error {
	if isClosed(p.died) {
		st = taskapi.StatusStopped // about to be
	}
	return fmt.Errorf("%s %s: it is %s: %w", what, p.name(), st, errdefs.ErrFailedPrecondition)
}

// deleted is the error of a call that another one's Delete has overtaken.
func (p *process) deleted() error { return fmt.Errorf("%s: %w", p.name(), errdefs.ErrNotFound) }

func (p *process) name() string {
	if p.execID == "" {
		return fmt.Sprintf("container %q", p.t.id)
	}
	return fmt.Sprintf("exec %q of container %q", p.execID, p.t.id)
}

// kill ends the container for a reason that goes into its exit record, also when it is paused; mu is held.
func (t *task) kill(reason string) {
	p := t.init
	if p == nil || isClosed(p.died) || p.reason != "" && p.reason != checkpointed {
		return
	}
	if p.frozen != nil && p.pid == 0 {
		p.reason = reason // while it is being restored, it is killed when it has been
		p.dieFrozen(unix.SIGKILL)
		return
	}
	if p.pid == 0 {
		return
	}
	t.logf("%s", reason)
	p.reason = reason
	unix.Kill(p.pid, unix.SIGKILL)
	// After the signal, so that nothing runs on. Not asked of t.paused: others than the supervisor can freeze a cgroup.
	s := t.s
	s.endings.Go(func() {
		if err := t.thaw(); err != nil {
			t.logf("%v", err)
		}
	})
}
