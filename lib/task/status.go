// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/network"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Status is what a container is doing; doc.go has what leads from one to the next.
type Status string

// The states of a container.
const (
	Created    Status = "created"
	Starting   Status = "starting"
	Running    Status = "running"
	Paused     Status = "paused"
	Restarting Status = "restarting"
	Stopped    Status = "stopped"
	Orphaned   Status = "orphaned"
)

// Statuses lists them all.
var Statuses = []Status{Created, Starting, Running, Paused, Restarting, Stopped, Orphaned}

// Info is a container and what it is doing.
type Info struct {
	container.Container
	Status      Status              `json:"status"`
	Incarnation taskdir.Incarnation `json:"incarnation,omitempty"` // of its task
	PID         int                 `json:"pid,omitempty"`         // of init, as long as it lives
	Supervisor  int                 `json:"supervisor,omitempty"`  // pid of the shim, as long as it has the task
	Started     time.Time           `json:"started,omitzero"`
	Restarts    int                 `json:"restarts,omitempty"` // by the restart policy, in a row
	Exit        *taskdir.Exit       `json:"exit,omitempty"`     // the last one, once it has stopped
	Cgroup      string              `json:"-"`                  // of its task, below the hierarchies
	Lost        *taskdir.Dropped    `json:"lost,omitempty"`     // output that did not reach the log
	Attached    *network.Result     `json:"attached,omitempty"` // to networks, with addresses and ports
}

// Info tells what the container is doing. It changes nothing, and waits for nobody but a foreign shim whose program
// has ended, which is asked for the exit: for a tenth of a second.
func (t *Task) Info(ctx context.Context) (Info, error) {
	for range 10 {
		info, ok, err := t.look(ctx)
		if ok || err != nil {
			return info, err
		}
		// The task that was meant is gone: a removal, or another start.
		now, err := t.reopen(ctx)
		if err != nil {
			return Info{}, err
		}
		t.Container, t.inc = now.Container, now.inc
	}
	return Info{Container: t.Container, Status: Created}, nil
}

// All lists the containers of a namespace by id, with what each is doing, see [Task.Info]. A record that cannot be read is left
// out; the error is of kind errdefs.ErrDataLoss then, and the others are listed all the same.
func All(ctx context.Context, d *state.Dir, ns string) ([]*Info, error) {
	var packed []container.Packed
	err := d.View(ctx, func(tx *state.Tx) (err error) {
		packed, err = container.AllPacked(tx, ns)
		return err
	})
	if err != nil {
		return nil, err
	}
	// One look for all: most of many containers were never started, or their tasks are deleted.
	started, err := startedIn(d, ns)
	if err != nil {
		return nil, err
	}
	unpacked, errs := unpack(packed)
	all := make([]*Info, 0, len(unpacked))
	for i := range unpacked {
		info := &unpacked[i]
		if errs[i] == nil && started[info.ID] {
			t := &Task{Container: info.Container, Namespace: ns, d: d}
			if err := t.refresh(); err != nil {
				return nil, err
			}
			*info, err = t.Info(ctx)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		if errs[i] == nil {
			all = append(all, info)
		}
	}
	return all, errors.Join(errs...)
}

// unpack decodes records on every processor: with thousands of them that is most of what a list costs.
func unpack(packed []container.Packed) ([]Info, []error) {
	const share = 64 // records: few need no help
	all, errs := make([]Info, len(packed)), make([]error, len(packed))
	var taken atomic.Int64
	work := func() {
		for end := int(taken.Add(share)); end-share < len(packed); end = int(taken.Add(share)) {
			for i := end - share; i < min(end, len(packed)); i++ {
				all[i].Status = Created
				errs[i] = packed[i].UnpackTo(&all[i].Container)
			}
		}
	}
	var others sync.WaitGroup
	for range min(goruntime.GOMAXPROCS(0)-1, len(packed)/share) {
		others.Go(work)
	}
	work()
	others.Wait()
	return all, errs
}

// look reads the task that is meant. It reports false when that is not there any more.
func (t *Task) look(ctx context.Context) (info Info, ok bool, err error) {
	if t.inc == "" {
		info = Info{Container: t.Container, Status: Created}
		starting, err := taskdir.BeingMade(t.base())
		if starting {
			info.Status = Starting
		}
		return info, true, err
	}
	v, err := t.viewWithin(ctx, pollEvery)
	if err != nil {
		return info, false, err
	}
	info, ok = t.told(v)
	if v.State == taskdir.Created || v.State == taskdir.Running {
		if info.Attached, err = t.attached(); err != nil {
			return info, false, err
		}
	}
	if info.Status == Running {
		if frozen, err := cgroup.Frozen(info.Cgroup); err == nil && frozen {
			info.Status = Paused
		}
	}
	return info, ok, nil
}

// told is what the directory of the task tells of the container. It reports false when that is not there any more.
func (t *Task) told(v taskdir.View) (info Info, ok bool) {
	info = Info{
		Container: t.Container, Status: Created, Incarnation: t.inc, Started: v.Started, Restarts: v.Task.Restart.Count, Cgroup: t.cgroup(v),
	}
	if v.Supervised {
		info.Supervisor = v.Supervisor.PID
	}
	var lost taskdir.Dropped
	if dropped, err := taskdir.Read(t.Dir(), taskdir.Lost, &lost); err == nil && dropped {
		info.Lost = &lost
	}
	switch v.State {
	case taskdir.None:
		return info, false
	case taskdir.Creating:
		info.Status = Starting
	case taskdir.Created:
		info.PID = v.Init.PID
	case taskdir.Running:
		info.Status, info.PID = Running, v.Init.PID
	case taskdir.Stopped:
		info.Status, info.Exit = Stopped, &v.Exit
		if v.Restarting {
			info.Status = Restarting
		}
		if v.Exit.Lost > 0 {
			info.Lost = &taskdir.Dropped{Bytes: v.Exit.Lost, Error: lost.Error}
		}
	case taskdir.Orphaned:
		info.Status = Orphaned
	}
	return info, true
}

// view is taskdir.Look for this task. A foreign shim does not record the exit: one whose init process is gone
// is asked. Whoever acts on a task that has ended calls seeOff, which records the answer.
func (t *Task) view(ctx context.Context) (taskdir.View, error) {
	return t.viewWithin(ctx, answerWithin)
}

// viewWithin is view with a bound for the answer of a foreign shim.
func (t *Task) viewWithin(ctx context.Context, within time.Duration) (taskdir.View, error) {
	v, err := taskdir.Look(t.Dir())
	if err != nil || !v.Supervisor.Foreign || v.State != taskdir.Running && v.State != taskdir.Created || v.Init.PID == 0 || v.Init.Alive() {
		return v, err
	}
	if exit, ok := t.askExit(ctx, v.Supervisor.Address, within); ok {
		v.State, v.Exit = taskdir.Stopped, exit
	}
	return v, nil
}

// cgroup is the cgroup of a task: that of its record, or where the record was never written, the one that it
// would have been given.
func (t *Task) cgroup(v taskdir.View) string {
	if v.Task.Cgroup != "" {
		return v.Task.Cgroup
	}
	return t.ownCgroup()
}
