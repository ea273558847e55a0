// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"os"
	"path/filepath"
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
	t := p.t
	abandoned := p.abandoned()
	// The directory is the client's: it may be gone.
	if err := taskdir.Write(p.dir(), taskdir.End, taskdir.Exit{Status: int(p.end.status), ExitedAt: p.end.at}); err != nil && !os.IsNotExist(err) {
		t.logf("exec %q: %v", p.execID, err)
	}
	t.s.emit(event.TaskExit{ContainerID: t.id, ID: p.execID, Pid: uint32(p.pid), ExitStatus: p.end.status, ExitedAt: p.end.at})
	p.setStatus(taskapi.StatusStopped)
	close(p.done)
	if abandoned {
		p.forget()
	}
}

func (p *process) finishInit() {
	t, s := p.t, p.t.s
	s.mu.Lock()
	if t.init != p {
		// Create failed and has cleaned up.
		s.mu.Unlock()
		return
	}
	t.ending = true
	s.mu.Unlock()
	crash.Point("shim.exited")
	t.killRest()
	oom := t.ranOut(p.end.status)
	p.io.drain(drainTime)
	if p.becoming != nil {
		p.becoming.Close()
	}
	crash.Point("shim.drained")
	t.cleanUp(p)
	crash.Point("shim.cleaned")
	t.awaitExecs()
	exit := taskdir.Exit{Status: int(p.end.status), ExitedAt: p.end.at, OOM: oom, Reason: p.reason, Lost: t.log.dropped()}
	t.recordExit(exit)
	crash.Point("shim.exit-recorded")
	if oom {
		s.emit(event.TaskOOM{ContainerID: t.id})
	}
	s.emit(event.TaskExit{ContainerID: t.id, ID: t.id, Pid: uint32(p.pid), ExitStatus: p.end.status, ExitedAt: p.end.at})
	t.letEnginesGo() // a Create of that id may follow the Delete that is answered now
	p.setStatus(taskapi.StatusStopped)
	close(p.done)
	t.log.close()
	s.endings.Go(func() { t.after(exit) })
}

// killRest kills what init has left in the container, and what engines are still putting there: they have drainTime, and
// are killed then.
func (t *task) killRest() {
	cg := t.cgroup
	entered := make(chan struct{})
	go func() {
		t.running.Wait()
		close(entered)
	}()
	for {
		last := isClosed(entered)
		// Without a pid namespace of its own, a container does not end with its init.
		if busy, err := cgroup.Populated(cg); busy || err != nil {
			if err := cgroup.Kill(cg); err != nil {
				t.logf("kill: %v", err)
			}
		}
		if last {
			return
		}
		select {
		case <-entered:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ranOut tells whether the kernel has killed any process of a container that has ended for want of memory.
func (t *task) ranOut(status uint32) bool {
	if w := t.memory; w != nil {
		defer w.Close()
		if status == 128+uint32(unix.SIGKILL) && w.Killed() {
			return true
		}
	}
	n, err := cgroup.OOMKills(t.cgroup)
	return err == nil && n > 0
}

// watchMemory keeps what the kernel has to say about a scope's memory beyond the scope's end.
func (t *task) watchMemory() {
	if filepath.Ext(t.cgroup) != ".scope" {
		return
	}
	w, err := cgroup.WatchOOM(t.cgroup)
	if err != nil {
		t.logf("%v", err)
		return
	}
	t.memory = w
}

// cleanUp leaves nothing of the container of an init but the directory. All its processes have ended.
func (t *task) cleanUp(init *process) {
	if init.made.Delete {
		if err := t.ask(ask.Delete, ask.Request{}, nil); err != nil {
			t.logf("%v", err)
		}
	}
	if t.cgroup != "" { // else Create has failed before it knew
		if err := cgroup.Remove(t.cgroup); err != nil {
			t.logf("%v", err)
		}
	}
	if err := os.RemoveAll(t.path(taskdir.Engine)); err != nil {
		t.logf("%v", err)
	}
}

// awaitExecs waits until the ends of all execs are recorded. They have been killed.
func (t *task) awaitExecs() {
	late := time.After(drainTime + readTime + time.Second)
	for _, p := range t.execsIn(taskapi.StatusRunning) {
		if p.pid > 0 && !isClosed(p.died) {
			// One that moved itself to another cgroup.
			unix.Kill(p.pid, unix.SIGKILL)
		}
		select {
		case <-p.done:
		case <-late:
			t.logf("exec %q does not end", p.execID)
			return
		}
	}
}
