// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/taskapi"
)

// Create sets the container up; its init process waits for Start. A supervisor whose Create fails has
// left nothing behind and ends.
func (s *server) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	t, e, err := s.claim(ctx, r)
	if err != nil {
		return nil, err
	}
	p := t.newProcess("", r.Terminal, r.Stdin, r.Stdout, r.Stderr)
	p.op.Lock()
	defer p.op.Unlock()
	if err = t.create(p, e, r); err != nil {
		t.undo(p)
		s.forget(t)
		t.release()
		s.leave()
		return nil, err
	}
	s.emit(event.TaskCreate{
		ContainerID: r.ID, Bundle: t.bundle, Pid: uint32(p.pid),
		Checkpoint: r.Checkpoint, IO: &event.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	return &taskapi.CreateTaskResponse{Pid: uint32(p.pid)}, nil
}

// claim admits one Create of a container, and gives the engine that is ready for it, if any.
func (s *server) claim(ctx context.Context, r *taskapi.CreateTaskRequest) (*task, *engineProcess, error) {
	if !filepath.IsAbs(r.Bundle) {
		return nil, nil, fmt.Errorf("bundle %q is not an absolute path: %w", r.Bundle, errdefs.ErrInvalidArgument)
	}
	bundle := filepath.Clean(r.Bundle)
	if st, err := os.Stat(bundle); err != nil || !st.IsDir() {
		return nil, nil, fmt.Errorf("bundle %q is not a directory: %w", r.Bundle, errdefs.ErrInvalidArgument)
	}
	s.awaitEarlier(ctx, r.ID, bundle)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[r.ID]
	switch first := s.first(); {
	case t == nil:
		t = s.newTask(r.ID, bundle)
	case t != first:
		return nil, nil, fmt.Errorf("container %q: %w", r.ID, errdefs.ErrAlreadyExists)
	case t.bundle != bundle:
		return nil, nil, fmt.Errorf("bundle %q is not the supervisor's %q: %w", r.Bundle, t.bundle, errdefs.ErrInvalidArgument)
	}
	for id, other := range s.tasks {
		if other != t && other.bundle == bundle {
			return nil, nil, fmt.Errorf("bundle %q is that of container %q: %w", r.Bundle, other.id, errdefs.ErrInvalidArgument)
		}
		if other.removed() {
			delete(s.tasks, id)
		}
	}
	if err := s.refuses(); err != nil {
		return nil, nil, fmt.Errorf("create container %q: %w", r.ID, err)
	}
	s.tasks[r.ID] = t
	var e *engineProcess
	if t == s.first() {
		e, s.prepared = s.prepared, nil
	}
	return t, e, nil
}

// earlierTime is how long a Create waits for an earlier incarnation of its container.
const earlierTime = 10 * time.Second

// awaitEarlier waits until nothing is left to do for an earlier incarnation of a container, and forgets it: the
// starter of that one has died in its Create, or it has ended and just let its locks go.
func (s *server) awaitEarlier(ctx context.Context, id, bundle string) {
	s.mu.Lock()
	t := s.tasks[id]
	earlier := t != nil && t.bundle != bundle && t != s.first() && !s.config.Containerd
	s.mu.Unlock()
	if !earlier {
		return
	}
	late := time.NewTimer(earlierTime)
	defer late.Stop()
	select {
	case <-t.over:
		s.forget(t)
	case <-late.C:
	case <-ctx.Done():
	}
}

// removed tells whether nothing is left of a task, whose container has been removed or started anew; mu is held.
func (t *task) removed() bool {
	if t.s.config.Containerd || !isClosed(t.over) {
		return false
	}
	_, err := os.Lstat(t.bundle)
	return os.IsNotExist(err)
}

// first is the container that the supervisor was started for, as long as its Create has not come; mu is held.
func (s *server) first() *task {
	if s.prepared == nil {
		return nil
	}
	return s.tasks[s.config.ID]
}

// forget removes a container that was not created, or is deleted. It reports false when somebody else has removed
// it: another one may have its id by now.
func (s *server) forget(t *task) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.finished()
	if s.tasks[t.id] != t {
		return false
	}
	delete(s.tasks, t.id)
	return true
}

func (t *task) create(p *process, e *engineProcess, r *taskapi.CreateTaskRequest) (err error) {
	if e == nil {
		if err := errors.Join(t.adopt(), t.announce()); err != nil {
			return err
		}
		if e, err = t.spawnEngine(ask.Create); err != nil {
			return err
		}
	}
	if t.options, err = readOptions(r.Options); err != nil {
		e.close()
		return err
	}
	if r.Checkpoint != "" {
		return t.awaitRestore(p, e, r)
	}
	req := ask.Request{
		Engine: t.engine(), Mounts: rootMounts(r.Rootfs), Terminal: r.Terminal,
		NoPivotRoot: t.options.NoPivotRoot, NoNewKeyring: t.options.NoNewKeyring, Filters: t.s.config.Filters,
	}
	if err := t.receive(p, e); err != nil {
		e.close()
		return err
	}
	p.made.Delete = req.Binary != "" // also of an OCI engine that dies after it has made the container, before it answers
	err = e.run(req, p, p.io.give...)
	crash.Point("shim.created")
	if err == nil {
		err = p.io.begin()
	}
	if err != nil {
		return err
	}
	t.watchMemory()
	p.waiting = executableOf(p.pid)
	if err := t.recordCreated(p.pid); err != nil {
		return err
	}
	p.created()
	crash.Point("shim.init-recorded")
	if t.ofClient() {
		e.awaitGone() // the client may look at the cgroup of the supervisor next
	}
	return nil
}

// receive lets the first process of the task be p: the engine has read its bundle, and what its end needs is set aside.
func (t *task) receive(p *process, e *engineProcess) (err error) {
	if err := errors.Join(t.meet(e), t.recordEngine()); err != nil {
		return err
	}
	if err := t.reserve(); err != nil {
		return fmt.Errorf("set aside the room for the exit record: %w", err)
	}
	if p.io, err = t.openStreams(p); err != nil {
		return err
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.init = p
	return nil
}

// created tells that the first process is recorded, and waits for Start. Of a server that is to end it ends at once.
func (p *process) created() {
	t := p.t
	t.s.mu.Lock()
	p.status = taskapi.StatusCreated
	if err := t.s.refuses(); err != nil {
		t.kill(err.Error())
	}
	t.s.mu.Unlock()
	go p.watchClient()
}

// meet takes what the engine has read in config.json. What is wrong with that file is told by the engine's result.
func (t *task) meet(e *engineProcess) (err error) {
	e.conn.SetReadDeadline(time.Now().Add(e.limit))
	if _, err := ask.Receive(e.conn, &t.hello); err != nil {
		e.kill()
		return fmt.Errorf("engine: %w", err)
	}
	e.conn.SetReadDeadline(time.Time{})
	e.limit += t.hello.HookTime
	if t.hello.CgroupsPath != "" {
		t.cgroup, err = cgroup.Path(t.hello.CgroupsPath)
	}
	return err
}

// rootMounts are the mounts of a request as the engine takes them.
func rootMounts(mounts []taskapi.Mount) []mount.Mount {
	all := make([]mount.Mount, len(mounts))
	for i, m := range mounts {
		all[i] = mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return all
}

// undo takes back what a Create that failed has made.
func (t *task) undo(p *process) {
	t.s.mu.Lock()
	t.init = nil
	t.s.mu.Unlock()
	close(p.dropped)
	if cg := t.cgroup; cg != "" {
		if err := cgroup.Kill(cg); err != nil {
			t.logf("undo create: %v", err)
		}
	}
	t.cleanUp(p)
	if p.io != nil {
		p.io.close()
	}
	if p.becoming != nil {
		p.becoming.Close()
	}
	if t.memory != nil {
		t.memory.Close()
	}
	t.log.close()
}
