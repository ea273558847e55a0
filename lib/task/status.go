// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"iter"
	goruntime "runtime"
	"slices"
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

// All yields the containers of a namespace by id, with what each is doing, see [Task.Info]. Each Info is there until the next is asked for.
// In place of a record that cannot be read there is an error of kind errdefs.ErrDataLoss, and the others follow; any other error is
// the last.
func All(ctx context.Context, d *state.Dir, ns string) iter.Seq2[*Info, error] {
	return func(yield func(*Info, error) bool) {
		var packed []container.Packed
		err := d.View(ctx, func(tx *state.Tx) (err error) {
			packed, err = container.AllPacked(tx, ns)
			return err
		})
		var started map[string]bool
		if err == nil {
			// One look for all: most of many containers were never started, or their tasks are deleted.
			started, err = startedIn(d, ns)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		for info, err := range unpacked(packed) {
			if err == nil && started[info.ID] {
				t := &Task{Container: info.Container, Namespace: ns, d: d}
				if err = t.refresh(); err == nil {
					*info, err = t.Info(ctx)
				}
				if errdefs.IsNotFound(err) {
					continue
				}
			}
			if !yield(info, err) || err != nil && !errdefs.IsDataLoss(err) {
				return
			}
		}
	}
}

// unpacked decodes records, on every processor: with thousands of them that is most of what a list costs. While some are looked at the
// next are decoded, in the place of those before.
func unpacked(packed []container.Packed) iter.Seq2[*Info, error] {
	return func(yield func(*Info, error) bool) {
		var batches [2]batch
		defer batches[0].working.Wait()
		defer batches[1].working.Wait()
		this, next := &batches[0], &batches[1]
		for some := range slices.Chunk(packed, batchSize) {
			next.unpack(some)
			if !this.each(yield) {
				return
			}
			this, next = next, this
		}
		this.each(yield)
	}
}

// A batch is some of many containers.
type batch struct {
	infos   []Info
	errs    []error
	working sync.WaitGroup
}

const batchSize = 256

// unpack begins to decode some records.
func (b *batch) unpack(some []container.Packed) {
	if b.infos == nil {
		b.infos, b.errs = make([]Info, len(some)), make([]error, len(some))
	}
	b.infos, b.errs = b.infos[:len(some)], b.errs[:len(some)] // the first batches are the largest
	var taken atomic.Int64
	const share = batchSize / 8
	for range min(goruntime.GOMAXPROCS(0), (len(some)+share-1)/share) {
		b.working.Go(func() {
			for end := int(taken.Add(share)); end-share < len(some); end = int(taken.Add(share)) {
				for i := end - share; i < min(end, len(some)); i++ {
					b.infos[i] = Info{Status: Created}
					b.errs[i] = some[i].UnpackTo(&b.infos[i].Container)
				}
			}
		})
	}
}

// each yields what was decoded. It reports false when no more is wanted.
func (b *batch) each(yield func(*Info, error) bool) bool {
	b.working.Wait()
	for i := range b.infos {
		if !yield(&b.infos[i], b.errs[i]) {
			return false
		}
	}
	b.infos, b.errs = b.infos[:0], b.errs[:0]
	return true
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
