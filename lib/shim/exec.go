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
	s.forgetAbandoned()
	p := s.newProcess(r.ExecID, r.Terminal, r.Stdin, r.Stdout, r.Stderr)
	p.status = taskapi.StatusCreated
	// Until it has its directory it looks abandoned.
	p.op.Lock()
	defer p.op.Unlock()
	s.mu.Lock()
	init, err := s.find(r.ID, "")
	switch {
	case err != nil:
	case s.execs[r.ExecID] != nil:
		err = fmt.Errorf("exec %q of container %q: %w", r.ExecID, r.ID, errdefs.ErrAlreadyExists)
	case init.status != taskapi.StatusCreated && init.status != taskapi.StatusRunning:
		err = init.wrong("exec in")
	default:
		s.execs[r.ExecID] = p
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
		s.forget(p)
		return fmt.Errorf("exec %q: %w", r.ExecID, err)
	}
	s.emit(event.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return nil
}

// processSpec is the OCI process of an exec, in its directory.
const processSpec = "process.json"

func (p *process) dir() string { return filepath.Join("execs", p.execID) }

// clientLock is held by the client that cares for the process. A client that makes no such file, or has
// removed it, has left the process to itself.
func (p *process) clientLock() string {
	if p.execID == "" {
		return taskdir.ClientLock
	}
	return filepath.Join(p.dir(), taskdir.ClientLock)
}

// abandoned tells whether the client that cares for the process is gone.
func (p *process) abandoned() bool {
	if p.execID != "" {
		if _, err := os.Lstat(p.dir()); err != nil {
			return true // the client has removed it
		}
	}
	if _, err := os.Lstat(p.clientLock()); err != nil {
		return false
	}
	held, err := lock.IsHeld(p.clientLock())
	return err == nil && !held
}

// watchClient ends the input of a process whose client was killed, as the client does when its own ends.
func (p *process) watchClient() {
	if _, err := os.Lstat(p.clientLock()); err != nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-p.died:
			return
		case <-tick.C:
		}
		if p.abandoned() {
			if err := p.io.closeStdin(); err != nil {
				p.s.logf("close stdin: %v", err)
			}
			return
		}
	}
}

// forgetAbandoned forgets the execs that were never started by clients that are gone. What runs is
// forgotten when it ends.
func (s *server) forgetAbandoned() {
	for _, p := range s.execsIn(taskapi.StatusCreated) {
		if p.op.TryLock() {
			if p.status == taskapi.StatusCreated && p.abandoned() {
				s.forget(p)
			}
			p.op.Unlock()
		}
	}
}

// execsIn lists the execs of a status.
func (s *server) execsIn(st taskapi.Status) (all []*process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.execs {
		if p.status == st {
			all = append(all, p)
		}
	}
	return all
}

func (s *server) forget(p *process) {
	s.mu.Lock()
	delete(s.execs, p.execID)
	s.mu.Unlock()
	os.RemoveAll(p.dir())
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
	s := p.s
	if err := s.enter(p); err != nil {
		return err
	}
	defer s.running.Done()
	streams, err := s.openStreams(p)
	if err != nil {
		return fmt.Errorf("exec %q: %w", p.execID, err)
	}
	p.io = streams
	req := ask.Request{Terminal: p.terminal, File: filepath.Join(p.dir(), processSpec)}
	// Before the engine tells the pid, which makes the reaper look at the process.
	s.setStatus(p, taskapi.StatusRunning)
	err = s.ask(ask.Exec, req, p, streams.give...)
	if err != nil {
		s.setStatus(p, taskapi.StatusCreated)
		streams.close()
		p.io = nil
		return err
	}
	crash.Point("shim.exec-started")
	if err := streams.begin(); err != nil {
		s.logf("exec %q: %v", p.execID, err)
	}
	if streams.stdin != nil {
		go p.watchClient()
	}
	s.emit(event.TaskExecStarted{ContainerID: s.config.ID, ExecID: p.execID, Pid: uint32(p.pid)})
	return nil
}

// enter admits an exec into the container and is undone by running.Done.
func (s *server) enter(p *process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	init := s.init
	switch {
	case p.status != taskapi.StatusCreated:
		return p.wrong("start")
	case init == nil || s.ending || isClosed(init.died) || init.status == taskapi.StatusStopped:
		return fmt.Errorf("exec %q: container %q has stopped: %w", p.execID, s.config.ID, errdefs.ErrFailedPrecondition)
	case s.paused:
		return fmt.Errorf("exec %q: container %q is paused: %w", p.execID, s.config.ID, errdefs.ErrFailedPrecondition)
	}
	s.running.Add(1)
	return nil
}

// Delete removes an exec that does not run, or takes note that the caller has seen the end of init.
func (s *server) Delete(_ context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	p, err := s.get(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.op.Lock()
	defer p.op.Unlock()
	s.mu.Lock()
	st, end := p.status, p.end
	s.mu.Unlock()
	if st != taskapi.StatusStopped && (r.ExecID == "" || st != taskapi.StatusCreated) {
		return nil, p.wrong("delete")
	}
	if r.ExecID != "" {
		s.forget(p)
		if st == taskapi.StatusCreated {
			return &taskapi.DeleteResponse{}, nil
		}
	} else {
		s.mu.Lock()
		s.init = nil
		s.mu.Unlock()
	}
	s.emit(event.TaskDelete{ContainerID: r.ID, ID: r.ExecID, Pid: uint32(p.pid), ExitStatus: end.status, ExitedAt: end.at})
	return &taskapi.DeleteResponse{Pid: uint32(p.pid), ExitStatus: end.status, ExitedAt: end.at}, nil
}
