// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// watchEvery is how often a process looks whether the one that it depends on lives.
const watchEvery = time.Second

// watchStarter ends the wait for a Create whose caller died before it came to it. Of a task that its owner does not
// keep it ends the wait for Start as well: nobody else knows of it.
func (t *task) watchStarter() {
	path := t.path(taskdir.StartLock)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.s.life.Done():
			return
		case <-tick.C:
		}
		if held, err := lock.IsHeld(path); held || err != nil {
			continue
		}
		t.s.mu.Lock()
		waiting, p := t.s.first() == t, t.init
		underWay := !waiting && !isClosed(t.over) && (p == nil || p.status == taskapi.StatusUnknown)
		if p != nil && p.status == taskapi.StatusCreated && t.record != nil && t.record.Owner != taskdir.Kept {
			t.kill("its starter died")
		}
		if waiting {
			t.s.endAll("its starter died")
		}
		t.s.mu.Unlock()
		if !underWay {
			return
		}
	}
}

// clientDir has the lock of the client that cares for the process. A client that makes no such file, or has
// removed it, has left the process to itself.
func (p *process) clientDir() string {
	if p.execID == "" {
		return p.t.bundle
	}
	return p.dir()
}

// hasClient tells whether there is such a lock.
func (p *process) hasClient() bool {
	_, err := os.Lstat(filepath.Join(p.clientDir(), taskdir.ClientLock))
	return err == nil
}

// abandoned tells whether the client that cares for the process is gone.
func (p *process) abandoned() bool {
	if p.execID != "" {
		if _, err := os.Lstat(p.dir()); err != nil {
			return true // the client has removed it
		}
	}
	died, err := taskdir.ClientDied(p.clientDir())
	return err == nil && died
}

// watchClient waits for the client of a process to be killed. Then it ends the process's input, as the client
// does when its own ends, and the whole container when the client is its owner. An exec on a terminal is told that
// nobody is at the terminal any more.
func (p *process) watchClient() {
	if !p.hasClient() {
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.died:
			return
		case <-tick.C:
		}
		if p.abandoned() {
			break
		}
		if !p.hasClient() {
			return // it has left the process to itself
		}
	}
	t := p.t
	p.op.Lock()
	if err := p.io.closeStdin(); err != nil {
		t.logf("close stdin: %v", err)
	}
	p.op.Unlock()
	if p.execID != "" && p.terminal {
		_, _ = p.signal(unix.SIGHUP) // it may have ended
	}
	if p.execID == "" && t.record != nil && t.record.Owner == taskdir.Client {
		t.s.mu.Lock()
		t.kill("its client died")
		t.s.mu.Unlock()
	}
}
