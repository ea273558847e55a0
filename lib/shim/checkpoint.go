// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// checkpointed is the reason in the exit record of a container that has ended with its checkpoint.
const checkpointed = taskdir.Checkpointed

// lastImage is the image of criu's that a dump writes last: then all others are whole.
const lastImage = "inventory.img"

// Checkpoint writes what the container's processes are into a directory. One that fails leaves the container running, or paused,
// as it was. It does not end with the client's connection.
func (s *server) Checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) error {
	p, err := s.get(r.ID, "")
	if err != nil {
		return err
	}
	var o taskapi.CheckpointOptions
	var pre taskapi.PreDump
	preDump := r.Options.To(&pre) == nil
	if preDump {
		err = taskapi.Unmarshal(pre.Options, &o)
	} else if err = r.Options.To(&o); errdefs.IsNotFound(err) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("checkpoint options: %w", err)
	}
	p.op.Lock()
	defer p.op.Unlock()
	if err := p.checkpoint(r.Path, o, preDump); err != nil {
		return fmt.Errorf("checkpoint container %q: %w", r.ID, err)
	}
	s.emit(event.TaskCheckpointed{ContainerID: r.ID, Checkpoint: r.Path})
	return nil
}

func (p *process) checkpoint(dir string, o taskapi.CheckpointOptions, preDump bool) error {
	t, s := p.t, p.t.s
	if dir == "" {
		dir = t.options.CriuImagePath
	}
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("directory %q is not an absolute path: %w", dir, errdefs.ErrInvalidArgument)
	}
	made, err := makeDir(dir)
	if err != nil {
		return err
	}
	paused, err := t.beginCheckpoint(p, o.Exit)
	if err != nil {
		return errors.Join(err, made())
	}
	work := o.WorkPath
	if work == "" {
		work = t.options.CriuWorkPath
	}
	crash.Point("shim.checkpoint")
	err = t.ask(ask.Dump, ask.Request{Checkpoint: &ask.Checkpoint{
		Dir: dir, Parent: o.ParentPath, Work: work, Exit: o.Exit, PreDump: preDump, TCP: o.OpenTCP, Unix: o.ExternalUnixSockets,
		ShellJob: o.Terminal, FileLocks: o.FileLocks, Empty: o.EmptyNamespaces, Cgroups: o.CgroupsMode,
	}}, nil)
	crash.Point("shim.checkpointed")
	if err != nil && o.Exit && p.endedWith(dir) {
		t.logf("checkpoint: it is whole, and the container has ended with it: %v", err)
		err = nil
	}
	if err == nil && o.Exit {
		err = p.endCheckpointed()
	}
	s.mu.Lock()
	t.dumping = false
	if err != nil && p.reason == checkpointed {
		p.reason = ""
	}
	s.mu.Unlock()
	if err == nil {
		return nil
	}
	if isClosed(p.died) {
		err = fmt.Errorf("it has ended meanwhile: %w", err)
	} else if !paused { // a criu that was killed leaves the container frozen
		if terr := t.thaw(); terr != nil {
			t.logf("%v", terr)
		}
	}
	return errors.Join(fmt.Errorf("into %s: %w", dir, err), made())
}

// endedWith tells whether a container has ended with a dump that is whole, although the engine that was at it has not said so.
func (p *process) endedWith(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, lastImage)); err != nil {
		return false
	}
	select {
	case <-p.died:
		return true
	case <-time.After(time.Second):
		return false // criu has let it run on
	}
}

// makeDir makes the directory of a checkpoint, and gives what takes away again what was not there.
func makeDir(dir string) (undo func() error, err error) {
	entries, err := os.ReadDir(dir)
	if err == nil {
		were := map[string]bool{}
		for _, e := range entries {
			were[e.Name()] = true
		}
		return func() error { return empty(dir, were) }, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("into %s: %w: %w", dir, errors.Unwrap(err), errdefs.ErrInvalidArgument)
	}
	first := dir // that is made
	for above := filepath.Dir(first); above != first; above = filepath.Dir(above) {
		if _, err := os.Lstat(above); err == nil {
			break
		}
		first = above
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errors.Join(err, removeEmpty(dir, first))
	}
	return func() error { return errors.Join(os.RemoveAll(dir), removeEmpty(filepath.Dir(dir), first)) }, nil
}

// empty removes what a dump has made in a directory, which may be one where others make files meanwhile.
func empty(dir string, were map[string]bool) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if !were[e.Name()] && isDumped(e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// isDumped tells whether criu, the engine or an OCI engine makes a file of that name.
func isDumped(name string) bool {
	switch name {
	case "checkpoint.json", "descriptors.json", "dump.log", "parent", "stats-dump":
		return true
	}
	return strings.HasSuffix(name, ".img")
}

// removeEmpty removes a directory and those above it up to first, as far as nothing is in them.
func removeEmpty(dir, first string) error {
	for ; len(dir) >= len(first); dir = filepath.Dir(dir) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return nil
}

// beginCheckpoint admits a checkpoint, which no exec may begin in. It tells whether the container is paused.
func (t *task) beginCheckpoint(p *process, exit bool) (paused bool, err error) {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := p.state(); st != taskapi.StatusRunning && st != taskapi.StatusPaused || t.ending || isClosed(p.died) {
		if isClosed(p.died) {
			st = taskapi.StatusStopped
		}
		return false, fmt.Errorf("it is %s: %w", st, errdefs.ErrFailedPrecondition)
	}
	for _, e := range t.execs {
		// Its processes are nobody's children in the container.
		if e.status == taskapi.StatusRunning && !isClosed(e.died) {
			return false, fmt.Errorf("%s runs, and cannot be part of it; it has to end first: %w", e.name(), errdefs.ErrFailedPrecondition)
		}
	}
	if t.entering > 0 {
		return false, fmt.Errorf("an exec is being started: %w", errdefs.ErrFailedPrecondition)
	}
	t.dumping = true
	if exit && p.reason == "" {
		p.reason = checkpointed
	}
	return t.paused, nil
}

// endCheckpointed waits for the end of a container that criu has killed, and kills one that was paused meanwhile.
func (p *process) endCheckpointed() error {
	p.t.s.mu.Lock()
	if !isClosed(p.died) {
		unix.Kill(p.pid, unix.SIGKILL)
	}
	p.t.s.mu.Unlock()
	if err := p.t.thaw(); err != nil {
		p.t.logf("%v", err)
	}
	select {
	case <-p.died:
		return nil
	case <-time.After(drainTime):
		return fmt.Errorf("it does not end: %w", context.DeadlineExceeded)
	}
}

// frozen is what a container that is made from a checkpoint waits with for Start.
type frozen struct {
	request ask.Request
	thawing bool // its processes are being restored; guarded by the server's mu
}

// awaitRestore sets up all of a container that is made from a checkpoint but its processes: Start restores these.
func (t *task) awaitRestore(p *process, e *engineProcess, r *taskapi.CreateTaskRequest) error {
	defer e.close()
	if !filepath.IsAbs(r.Checkpoint) {
		return fmt.Errorf("checkpoint: %q is no absolute path: %w", r.Checkpoint, errdefs.ErrInvalidArgument)
	}
	switch st, err := os.Stat(r.Checkpoint); {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("checkpoint: there is no directory %s: %w", r.Checkpoint, errdefs.ErrNotFound)
	case err != nil:
		return fmt.Errorf("checkpoint: %w", err)
	case !st.IsDir():
		return fmt.Errorf("checkpoint: %s is no directory: %w", r.Checkpoint, errdefs.ErrInvalidArgument)
	}
	p.frozen = &frozen{request: ask.Request{
		Mounts: rootMounts(r.Rootfs), Terminal: r.Terminal, NoPivotRoot: t.options.NoPivotRoot, NoNewKeyring: t.options.NoNewKeyring,
		Checkpoint: &ask.Checkpoint{Dir: r.Checkpoint, Parent: r.ParentCheckpoint, Work: t.options.CriuWorkPath},
	}}
	if err := t.receive(p, e); err != nil {
		return err
	}
	if err := t.recordFrozen(); err != nil {
		return err
	}
	p.created()
	crash.Point("shim.restore-waits")
	return nil
}

// thawOut restores the processes of a container that waits for it, which then run. One that fails leaves the container waiting.
func (t *task) thawOut(p *process) error {
	e, err := t.spawnEngine(ask.Restore)
	if err != nil {
		return err
	}
	thawing := func(is bool) {
		t.s.mu.Lock()
		defer t.s.mu.Unlock()
		p.frozen.thawing = is
		if reason := p.reason; !is && reason != "" {
			// Somebody has ended it meanwhile, when it had no process.
			p.reason = ""
			t.kill(reason)
		}
	}
	thawing(true)
	if err := t.meet(e); err != nil {
		e.close()
		thawing(false)
		return err
	}
	req := p.frozen.request
	req.Engine = t.engine()
	p.made.Delete = req.Binary != ""
	err = e.run(req, p, p.io.give...)
	crash.Point("shim.restored")
	if err != nil {
		// Half of them may be there.
		if kerr := errors.Join(cgroup.Kill(t.cgroup), cgroup.Remove(t.cgroup)); kerr != nil {
			t.logf("undo the restore: %v", kerr)
		}
		thawing(false)
		return err
	}
	thawing(false)
	if err := p.io.begin(); err != nil {
		t.logf("%v", err)
	}
	if err := t.recordCreated(p.pid); err != nil {
		t.logf("record what was restored: %v", err)
	}
	return nil
}

// dieFrozen ends a container that waits to be restored, as a signal would; mu is held. It reports false for any other.
func (p *process) dieFrozen(sig unix.Signal) bool {
	if p.status != taskapi.StatusCreated || p.frozen == nil || p.frozen.thawing || p.pid != 0 || isClosed(p.died) {
		return false
	}
	p.reaped(ending{status: 128 + uint32(sig), at: time.Now().UTC()})
	return true
}
