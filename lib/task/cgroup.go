// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Cgroups says where a task lives.
type Cgroups string

// The values of Cgroups, named as podman names them.
const (
	// CgroupsAuto is Split for a client that stays, in a unit of systemd with Delegate=yes, unless the container has a
	// cgroup parent or the systemd driver; else it is Enabled.
	CgroupsAuto Cgroups = ""
	// CgroupsEnabled gives the container the cgroup that its record says, and the supervisor one outside of the
	// caller's.
	CgroupsEnabled Cgroups = "enabled"
	// CgroupsSplit keeps both in the systemd unit of the caller, which must have Delegate=yes.
	CgroupsSplit Cgroups = "split"
)

// cgroupPrefix begins the names of cgroups and units. Another state directory than the usual one marks its own, so
// that two of them never meet.
func cgroupPrefix(d *state.Dir) string {
	if d.Run() == state.DefaultState {
		return "ctrd"
	}
	h := sha256.Sum256([]byte(d.Run()))
	return "ctrd-" + hex.EncodeToString(h[:3])
}

// cgroupsPath is linux.cgroupsPath of a container: flat without a parent, so that no two containers share one.
func cgroupsPath(d *state.Dir, ns string, c container.Container) (string, error) {
	return cgroup.Spec(cgroup.Driver(c.CgroupDriver), c.CgroupParent, cgroupPrefix(d), ns+"--"+c.ID)
}

// ownCgroup is the path of cgroupsPath.
func (t *Task) ownCgroup() string {
	s, err := cgroupsPath(t.d, t.Namespace, t.Container)
	if err == nil {
		s, err = cgroup.Path(s)
	}
	if err != nil {
		return "" // of a damaged record: what is asked of it fails
	}
	return s
}

// supervisors is the cgroup that the supervisors of a state directory share. No container has its name.
func supervisors(d *state.Dir) string { return "/" + cgroupPrefix(d) + "--shims" }

// sweep removes the cgroup of the supervisors if none is left. One that stays harms nobody.
func sweep(d *state.Dir) { _ = cgroup.RemoveEmpty(supervisors(d)) }

// sweepWithin bounds the wait for a supervisor that has let go of its task. It ends at once unless it has others.
const sweepWithin = 200 * time.Millisecond

// sweepAfter is sweep once the supervisor of a task that has ended is gone. Of those that end at the same moment, each
// is waited for before anybody looks, so that the last look finds none. The supervisor itself cannot do it: it is in
// the cgroup, and to leave it would hold up every process that joins one.
func (t *Task) sweepAfter(s taskdir.Supervisor) {
	if fd := s.Open(); fd >= 0 {
		ctx, cancel := context.WithTimeout(context.Background(), sweepWithin)
		_ = poll(ctx, fd)
		cancel()
		unix.Close(fd)
		t.removeAddress(s) // one that was killed may have been dying when its task was settled
	}
	sweep(t.d)
}

// clearAfter empties the trash, which takes as long as the supervisor takes to end, and is sweepAfter then.
func (t *Task) clearAfter(s taskdir.Supervisor) {
	if api := t.api; api != nil && t.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), sweepWithin)
		defer cancel()
		go func() { _ = api.Shutdown(ctx, &taskapi.ShutdownRequest{ID: t.ID()}) }() // it would look for us a while longer
	}
	t.d.EmptyTrash()
	t.sweepAfter(s)
}

// lastSupervisor is the supervisor of the task that is meant, for sweepAfter: its record goes with the task. That of a
// sandbox does not end with a task.
func (t *Task) lastSupervisor() (s taskdir.Supervisor) {
	if _, err := taskdir.Read(t.Dir(), taskdir.Shim, &s); err != nil || t.inSandbox() && !s.Foreign {
		return taskdir.Supervisor{}
	}
	return s
}

// UnitError says that a task cannot stay in the systemd unit of its starter. Its kind is that of the cause.
type UnitError struct {
	Unit string // empty: there is none
	Err  error
}

// Error says what was tried.
func (e *UnitError) Error() string {
	return fmt.Sprintf("keep the container in the unit of this command: %v", e.Err)
}

// Unwrap gives the cause.
func (e *UnitError) Unwrap() error { return e.Err }

// Hint names the next step.
func (e *UnitError) Hint() string {
	if e.Unit == "" {
		return "--cgroups enabled gives it a cgroup of its own"
	}
	return fmt.Sprintf("add Delegate=yes to %s, or give the container a cgroup of its own with --cgroups enabled", e.Unit)
}

// place decides where the task lives: it sets the cgroup of its spec, writes it into the task's record, and makes
// what must be there first.
func (t *Task) place(ctx context.Context, s *specs.Spec, o StartOptions) error {
	if s.Linux == nil {
		s.Linux = new(specs.Linux)
	}
	if err := t.split(s, o); err != nil {
		return err
	}
	s.Linux.CgroupsPath = cmp.Or(s.Linux.CgroupsPath, t.ID())
	t.systemd = cgroup.UsesSystemd(s.Linux.CgroupsPath)
	p, err := cgroup.Path(s.Linux.CgroupsPath)
	if err != nil {
		return err
	}
	if p != t.ownCgroup() {
		if err := t.recordCgroup(ctx, p); err != nil {
			return err
		}
	}
	if t.systemd || path.Dir(p) == "/" {
		return nil
	}
	// Before the engine does: so the parent is known to be ours, and is never removed between its making and that of
	// the container's.
	return cgroup.Make(p)
}

// recordCgroup writes the task's cgroup into its record, under the container's lock: SetRestart writes the same file.
func (t *Task) recordCgroup(ctx context.Context, p string) error {
	l, err := t.lock(ctx)
	if err != nil {
		return err
	}
	var r taskdir.Task
	if _, err = taskdir.Read(t.Dir(), taskdir.Record, &r); err == nil {
		r.Cgroup = p
		err = taskdir.Write(t.Dir(), taskdir.Record, r)
	}
	return errors.Join(err, l.Release())
}

// split gives the task a place in the caller's unit where that is asked for.
func (t *Task) split(s *specs.Spec, o StartOptions) error {
	name := cgroupPrefix(t.d) + "--" + t.Namespace + "--" + t.ID()
	auto := o.Cgroups == CgroupsAuto && s.Linux.CgroupsPath == "/"+name
	if o.Cgroups != CgroupsSplit && !auto {
		return nil
	}
	// A supervisor that starts its container again keeps it where it was.
	again := o.after != nil && path.Dir(o.after.Task.Cgroup) != "/"
	if auto && !o.Client && !again {
		return nil
	}
	u, err := cgroup.OwnUnit()
	switch {
	case err != nil && auto:
		return nil
	case err != nil:
		return &UnitError{Err: err}
	case auto && !u.Delegated:
		if u.Started {
			t.outside = u.Name
		}
		return nil
	case again && path.Dir(o.after.Task.Cgroup) != u.Path:
		return nil
	}
	p, err := u.Split(name)
	if err != nil {
		return &UnitError{Unit: u.Name, Err: err}
	}
	s.Linux.CgroupsPath, t.inUnit = p, true
	return nil
}

// Outside names the systemd unit that runs the calling process and does not have the container, because it has no
// Delegate=yes; empty when there is none.
func (t *Task) Outside() string { return t.outside }

// startOut starts a process that outlives this one where its end does not follow from ours: in the cgroup that a client
// has named for it; without one, not in our cgroup, unless the whole task stays in our unit.
func (t *Task) startOut(cmd *exec.Cmd, named string) error {
	switch {
	case named != "":
		defer func() { go cgroup.Hasten() }()
		return cgroup.StartIn(cmd, named)
	case t.inUnit:
		return cmd.Start()
	}
	return StartOut(t.d, cmd)
}

// StartOut starts a command beside the supervisors of the state directory: the end of our unit or session does not end it.
func StartOut(d *state.Dir, cmd *exec.Cmd) error {
	// Not earlier: Start would wait for it.
	defer func() { go cgroup.Hasten() }()
	return cgroup.Start(cmd, supervisors(d))
}

// shimCgroup gives the cgroup that the options name for our shim, or nothing. A foreign shim reads them itself.
func shimCgroup(r runtime, given *taskapi.Any) (string, error) {
	var o taskapi.Options
	if r.foreign || !given.Is(taskapi.RuncOptionsURL) {
		return "", nil
	}
	err := given.To(&o)
	return o.ShimCgroup, err
}

// adopt has systemd make a scope for the supervisor, with the systemd driver, and gives what waits for that.
// ctr-shim does it, which speaks D-Bus.
func (t *Task) adopt(ctx context.Context, r runtime, pid int) (wait func() error) {
	if !t.systemd || t.inUnit {
		return func() error { return nil }
	}
	name := fmt.Sprintf("%s-shim-%s--%s-%s.scope", cgroupPrefix(t.d), t.Namespace, t.ID(), t.inc)
	cmd := exec.CommandContext(ctx, r.init, "scope", name, "Supervisor of container "+t.Namespace+"/"+t.ID(), strconv.Itoa(pid))
	var text bytes.Buffer
	cmd.Stderr = &text
	err := cmd.Start()
	return func() error {
		if err == nil {
			err = cmd.Wait()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if said := strings.TrimSpace(text.String()); err != nil && said != "" {
			return errors.New(strings.TrimPrefix(said, "ctr-shim: "))
		}
		return err
	}
}

// stopScopeWithin bounds how long the container's lock is held while systemd stops a scope.
const stopScopeWithin = 10 * time.Second

// endCgroup kills what is left in the cgroup of a task, and removes it. With the systemd driver systemd is told to stop
// the scope and not left to find it empty: until it has, it makes no other of that name, and the container's next start
// would fail. Without an answer of systemd's the next start says what is wrong.
func (t *Task) endCgroup(v taskdir.View) error {
	p := t.cgroup(v)
	if err := cgroup.Kill(p); err != nil {
		return err
	}
	crash.Point("task.finish-killed")
	name := path.Base(p)
	if cgroup.Driver(t.Container.CgroupDriver) == cgroup.Systemd && path.Ext(name) == ".scope" && cgroup.Booted() {
		if shim, err := Beside(ourShim); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), stopScopeWithin)
			_ = exec.CommandContext(ctx, shim, "stop-scope", name).Run()
			cancel()
		}
	}
	return cgroup.Remove(p)
}

// checkDriver refuses a cgroup driver that this machine does not have.
func checkDriver(d string) error {
	if cgroup.Driver(d) == cgroup.Systemd && !cgroup.Booted() {
		return fmt.Errorf("cgroup driver systemd: systemd does not run this machine: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}
