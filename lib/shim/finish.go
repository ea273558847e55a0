// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// drainTime bounds how long the output of an ended process is waited for: a descriptor of it may have
// got out of the container.
const drainTime = 5 * time.Second

// finish is what follows the end of a process, before anybody is told.
func (p *process) finish() {
	p.op.Lock()
	defer p.op.Unlock()
	if p.execID == "" {
		p.finishInit()
		return
	}
	if p.io != nil {
		p.io.drain(drainTime)
	}
	s := p.s
	abandoned := p.abandoned()
	// The directory is the client's: it may be gone.
	if err := taskdir.Write(p.dir(), taskdir.End, taskdir.Exit{Status: int(p.end.status), ExitedAt: p.end.at}); err != nil && !os.IsNotExist(err) {
		s.logf("exec %q: %v", p.execID, err)
	}
	s.emit(event.TaskExit{ContainerID: s.config.ID, ID: p.execID, Pid: uint32(p.pid), ExitStatus: p.end.status, ExitedAt: p.end.at})
	s.setStatus(p, taskapi.StatusStopped)
	close(p.done)
	if abandoned {
		s.forget(p)
	}
}

func (p *process) finishInit() {
	s := p.s
	s.mu.Lock()
	if s.init != p {
		// Create failed and has cleaned up.
		s.mu.Unlock()
		return
	}
	s.ending = true
	s.mu.Unlock()
	crash.Point("shim.exited")
	oom := s.killRest()
	p.io.drain(drainTime)
	crash.Point("shim.drained")
	s.cleanUp()
	crash.Point("shim.cleaned")
	s.awaitExecs()
	exit := taskdir.Exit{Status: int(p.end.status), ExitedAt: p.end.at, OOM: oom, Reason: p.reason, Lost: s.log.dropped()}
	if err := taskdir.Write("", taskdir.End, exit); err != nil {
		// Without it the next command finds a task whose supervisor is gone, and ends that.
		s.logf("record the exit: %v", err)
	}
	crash.Point("shim.exit-recorded")
	if oom {
		s.emit(event.TaskOOM{ContainerID: s.config.ID})
	}
	s.emit(event.TaskExit{ContainerID: s.config.ID, ID: s.config.ID, Pid: uint32(p.pid), ExitStatus: p.end.status, ExitedAt: p.end.at})
	s.setStatus(p, taskapi.StatusStopped)
	close(p.done)
	s.end()
}

// killRest kills what init has left in the container, and what engines are still putting there. It tells
// whether the kernel has killed any process of the container for want of memory.
func (s *server) killRest() (oom bool) {
	cg := s.hello.CgroupsPath
	entered := make(chan struct{})
	go func() {
		s.running.Wait()
		close(entered)
	}()
	for {
		// Without a pid namespace of its own, a container does not end with its init.
		if busy, err := cgroup.Populated(cg); busy || err != nil {
			if err := cgroup.Kill(cg); err != nil {
				s.logf("kill: %v", err)
			}
		}
		if isClosed(entered) {
			break
		}
		select {
		case <-entered:
		case <-time.After(20 * time.Millisecond):
		}
	}
	n, err := cgroup.OOMKills(cg)
	return err == nil && n > 0
}

// cleanUp leaves nothing of the container but the directory.
func (s *server) cleanUp() {
	var work sync.WaitGroup
	// Both wait for the kernel more than they work.
	work.Go(func() {
		if err := unmountRootfs(s.dir); err != nil {
			s.logf("%v", err)
		}
	})
	if s.hello.Poststop {
		if err := s.ask(ask.Delete, ask.Request{}, nil); err != nil {
			s.logf("poststop: %v", err)
		}
	}
	if err := cgroup.Remove(s.hello.CgroupsPath); err != nil {
		s.logf("%v", err)
	}
	if err := os.RemoveAll(taskdir.Engine); err != nil {
		s.logf("%v", err)
	}
	work.Wait()
}

// awaitExecs waits until the ends of all execs are recorded. They have been killed.
func (s *server) awaitExecs() {
	late := time.After(drainTime + time.Second)
	for _, p := range s.execsIn(taskapi.StatusRunning) {
		if p.pid > 0 && !isClosed(p.died) {
			// One that moved itself to another cgroup.
			unix.Kill(p.pid, unix.SIGKILL)
		}
		select {
		case <-p.done:
		case <-late:
			s.logf("exec %q does not end", p.execID)
			return
		}
	}
}
