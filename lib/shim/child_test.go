// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine/ask"
)

// TestEarlyEnds: the end of a child that nobody knows is kept only while an engine may still tell its pid, so that
// they do not add up and no later process with the same pid is taken for dead.
func TestEarlyEnds(t *testing.T) {
	s := newServer(Config{})
	s.helpers[10] = make(chan struct{})
	s.prepared = &engineProcess{s: s} // it may wait for its request as long as the supervisor lives
	s.reaped(12, ending{})
	if len(s.early) != 0 {
		t.Errorf("kept: %v", s.early)
	}
	done := s.expect()
	s.reaped(10, ending{}) // an engine
	s.reaped(13, ending{status: 3})
	if len(s.early) != 1 || s.early[13].status != 3 || s.helpers[10] != nil {
		t.Errorf("kept: %v, helpers %v", s.early, s.helpers)
	}
	done()
	if len(s.early) != 0 {
		t.Errorf("kept: %v", s.early)
	}
}

// TestEngineThatHangs: an engine that does not answer in time is killed, with what it has started.
func TestEngineThatHangs(t *testing.T) {
	s := newServer(Config{})
	ours, theirs, err := ask.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("sh", "-c", "sleep 1000 & wait")
	cmd.SysProcAttr, cmd.Stdout = &syscall.SysProcAttr{Setpgid: true}, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	e := &engineProcess{s: s, pid: cmd.Process.Pid, gone: make(chan struct{}), conn: ours, limit: time.Millisecond}
	s.helpers[e.pid] = e.gone
	go func() {
		cmd.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reaped(e.pid, ending{status: 137})
	}()
	if err := e.run(ask.Request{}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if n, _ := r.Read(make([]byte, 1)); n != 0 {
		t.Error("it says something")
	} // the end: nobody has the pipe open any more
	s.mu.Lock() // until it is forgotten, too
	defer s.mu.Unlock()
	if len(s.helpers) != 0 {
		t.Error("it is not reaped")
	}
}

// TestLoggerThatStays: a logging program that does not end is told to, and then killed.
func TestLoggerThatStays(t *testing.T) {
	s := newServer(Config{})
	path := filepath.Join(t.TempDir(), "logger")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ntrap : TERM\necho\nwhile :; do sleep 1000 & wait; done\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pid, gone, err := s.startLogger([]string{path}, &syscall.ProcAttr{
		Files: []uintptr{0, w.Fd(), 2}, Sys: &syscall.SysProcAttr{Setsid: true}, Env: []string{"PATH=/bin:/usr/bin"},
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(-pid, unix.SIGKILL) // its sleep
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err) // the trap is set
	}
	l := &logger{t: s.newTask("c", t.TempDir()), pid: pid, gone: gone}
	l.wait(time.Millisecond, time.Millisecond)
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	state, err := p.Wait()
	if err != nil || state.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("it ended with %v, %v", state, err)
	}
}
