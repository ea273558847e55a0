// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Exec adds a process to the container; Start runs it.
func (s *server) Exec(_ context.Context, r *taskapi.ExecProcessRequest) error {
	if err := checkName(r.ExecID); err != nil {
		return err
	}
	if r.Spec == nil {
		return fmt.Errorf("exec %q: no process: %w", r.ExecID, errdefs.ErrInvalidArgument)
	}
	init, err := s.get(r.ID, "")
	if err != nil {
		return err
	}
	t := init.t
	t.forgetAbandoned()
	p := t.newProcess(r.ExecID, r.Terminal, r.Stdin, r.Stdout, r.Stderr)
	p.status = taskapi.StatusCreated
	// Until it has its directory it looks abandoned.
	p.op.Lock()
	defer p.op.Unlock()
	s.mu.Lock()
	switch {
	case t.execs[r.ExecID] != nil:
		err = fmt.Errorf("exec %q of container %q: %w", r.ExecID, r.ID, errdefs.ErrAlreadyExists)
	case init.status != taskapi.StatusCreated && init.status != taskapi.StatusRunning:
		err = init.wrong("exec in", init.status)
	default:
		t.execs[r.ExecID] = p
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	// What is to run waits in a file and not in memory.
	err = os.MkdirAll(p.dir(), 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(p.dir(), processSpec), r.Spec.Value, 0o600)
	}
	if err != nil {
		p.forget()
		return fmt.Errorf("exec %q: %w", r.ExecID, err)
	}
	s.emit(event.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return nil
}

// processSpec is the OCI process of an exec, in its directory.
const processSpec = "process.json"

func (p *process) dir() string { return p.t.path(taskdir.Execs, p.execID) }

// forgetAbandoned forgets the execs of clients that are gone, but for those that run: they are forgotten when
// they end. Directories that clients made before they were killed go too. It is called for each new exec.
func (t *task) forgetAbandoned() {
	for _, p := range append(t.execsIn(taskapi.StatusCreated), t.execsIn(taskapi.StatusStopped)...) {
		if p.op.TryLock() {
			if p.status != taskapi.StatusRunning && p.abandoned() {
				p.forget()
			}
			p.op.Unlock()
		}
	}
	entries, err := os.ReadDir(t.path(taskdir.Execs))
	if err != nil {
		return
	}
	for _, e := range entries {
		t.s.mu.Lock()
		known := t.execs[e.Name()] != nil
		t.s.mu.Unlock()
		if !known && orphaned(t.path(taskdir.Execs, e.Name()), e) {
			os.RemoveAll(t.path(taskdir.Execs, e.Name()))
		}
	}
}

// execSetUp is how long a client may take to make an exec's directory and to lock it.
const execSetUp = 10 * time.Second

// orphaned tells whether the client of an exec that was never asked for is gone.
func orphaned(dir string, e os.DirEntry) bool {
	st, err := e.Info()
	if err != nil || time.Since(st.ModTime()) < execSetUp {
		return false
	}
	held, err := lock.IsHeld(filepath.Join(dir, taskdir.ClientLock))
	return err == nil && !held
}

// execsIn lists the execs of a status.
func (t *task) execsIn(st taskapi.Status) (all []*process) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	for _, p := range t.execs {
		if p.status == st {
			all = append(all, p)
		}
	}
	return all
}

// forget removes an exec and its directory; op is held. It reports false when somebody else has removed it: another
// one may have its id and its directory by now.
func (p *process) forget() bool {
	s, execs := p.t.s, p.t.execs
	s.mu.Lock()
	known := execs[p.execID] == p
	s.mu.Unlock()
	if !known {
		return false
	}
	// Before the id is free again.
	os.RemoveAll(p.dir())
	s.mu.Lock()
	delete(execs, p.execID)
	s.mu.Unlock()
	if !isClosed(p.done) {
		close(p.dropped)
	}
	return true
}

// checkName admits what is a file name and nothing else.
func checkName(id string) error {
	ok := len(id) > 0 && len(id) < 200 && id != "." && id != ".."
	for _, c := range []byte(id) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	}
	if !ok {
		return fmt.Errorf("exec id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// startExec runs an exec. When that fails the exec stays as it was.
func (p *process) startExec() error {
	t := p.t
	if err := t.enter(p); err != nil {
		return err
	}
	defer t.left()
	streams, err := t.openStreams(p)
	if err != nil {
		return fmt.Errorf("exec %q: %w", p.execID, err)
	}
	p.io = streams
	req := ask.Request{Terminal: p.terminal, File: filepath.Join(p.dir(), processSpec), Filters: p.t.s.config.Filters}
	// Before the engine tells the pid, which makes the reaper look at the process.
	p.setStatus(taskapi.StatusRunning)
	err = t.put(p, req, streams.give...)
	if err != nil {
		p.setStatus(taskapi.StatusCreated)
		streams.close()
		p.io = nil
		return err
	}
	crash.Point("shim.exec-started")
	if err := streams.begin(); err != nil {
		t.logf("exec %q: %v", p.execID, err)
	}
	if streams.stdin != nil {
		go p.watchClient()
	}
	t.s.emit(event.TaskExecStarted{ContainerID: t.id, ExecID: p.execID, Pid: uint32(p.pid)})
	return nil
}

// enter admits an exec into the container and is undone by left.
func (t *task) enter(p *process) error {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	init := t.init
	switch {
	case t.execs[p.execID] != p:
		return p.deleted() // the reaper would not know its process
	case p.status != taskapi.StatusCreated:
		return p.wrong("start", p.status)
	case init == nil || t.ending || isClosed(init.died) || init.status == taskapi.StatusStopped:
		return fmt.Errorf("exec %q: container %q has stopped: %w", p.execID, t.id, errdefs.ErrFailedPrecondition)
	case t.dumping:
		return fmt.Errorf("exec %q: a checkpoint of container %q is being made: %w", p.execID, t.id, errdefs.ErrFailedPrecondition)
	case t.paused:
		return fmt.Errorf("exec %q: container %q is paused: %w", p.execID, t.id, errdefs.ErrFailedPrecondition)
	}
	t.running.Add(1)
	t.entering++
	return nil
}

func (t *task) left() {
	t.s.mu.Lock()
	t.entering--
	t.s.mu.Unlock()
	t.running.Done()
}

// Delete removes an exec that does not run, or takes note that the caller has seen the end of init. A container
// that waits for Start is ended first.
func (s *server) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		if err := p.endWaiting(ctx); err != nil {
			return nil, err
		}
	}
	if isClosed(p.died) {
		// Its end is about to be recorded.
		select {
		case <-p.done:
		case <-p.dropped:
		case <-ctx.Done():
			return nil, fmt.Errorf("delete %s: it does not end: %w", p.name(), ctx.Err())
		}
	}
	p.op.Lock()
	defer p.op.Unlock()
	s.mu.Lock()
	st, end := p.status, p.end
	s.mu.Unlock()
	if st != taskapi.StatusStopped && (r.ExecID == "" || st != taskapi.StatusCreated) {
		return nil, p.wrong("delete", st)
	}
	if r.ExecID != "" {
		if !p.forget() {
			return nil, p.deleted()
		}
		if st == taskapi.StatusCreated {
			return &taskapi.DeleteResponse{}, nil
		}
		if s.config.Containerd {
			// Its shims tell nothing of this.
			return &taskapi.DeleteResponse{Pid: uint32(p.pid), ExitStatus: end.status, ExitedAt: end.at}, nil
		}
	} else {
		if !s.forget(p.t) {
			return nil, p.deleted()
		}
		close(p.t.deleted)
	}
	s.emit(event.TaskDelete{ContainerID: r.ID, ID: r.ExecID, Pid: uint32(p.pid), ExitStatus: end.status, ExitedAt: end.at})
	return &taskapi.DeleteResponse{Pid: uint32(p.pid), ExitStatus: end.status, ExitedAt: end.at}, nil
}
