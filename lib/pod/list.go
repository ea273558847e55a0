// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Lists keeps what lists of pods and containers have found, for a server whose clients ask every second: what has not changed is not read
// again. It may be used by several at once.
type Lists struct {
	watch *taskdir.Watch // nil: for one list
	tasks *task.Listing
	pods  *sandbox.Memory

	mu       sync.Mutex
	statuses map[*sandbox.Sandbox]podListed
	rows     []state.Recalled[sandbox.Sandbox] // that last was made from
	last     []*Status                         // the last list of pods
	all      uint64                            // number of all directories that last was made from; 0: some of it may not be kept

	containers map[*task.Info]*ContainerStatus
	infos      []*task.Info       // that told was made from; nil: some of it may not be kept
	told       []*ContainerStatus // the last list of containers
}

// podListed is what the last list said of a pod, with the number that its directory had.
type podListed struct {
	dir    uint64
	status *Status // nil: it is nobody's yet
}

// NewLists makes one that knows nothing yet.
func NewLists(d *state.Dir, ns string) *Lists {
	return newLists(d, ns, new(taskdir.Watch))
}

func newLists(d *state.Dir, ns string, watch *taskdir.Watch) *Lists {
	return &Lists{watch: watch, tasks: task.NewListing(d, ns, watch), pods: sandbox.NewMemory()}
}

// Forget gives up what is kept.
func (l *Lists) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tasks.Forget()
	l.pods.Forget()
	l.watch.Close()
	l.statuses, l.rows, l.last, l.all = nil, nil, nil, 0
	l.containers, l.infos, l.told = nil, nil, nil
}

// lists is h.Lists, or one for a single list.
func (h Host) lists() *Lists {
	if h.Lists != nil {
		return h.Lists
	}
	return newLists(h.Dir, h.Namespace, nil)
}

// List tells of all pods, by id. One that is being made is left out: it is nobody's yet. It changes nothing and waits for
// nobody. What it gives must not be changed; with Lists, a pod of which nothing has changed has the same pointer as before, and the list is
// the same slice when nothing has changed at all.
func (h Host) List(ctx context.Context) (all []*Status, err error) {
	l := h.lists()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watch.Update()
	var records []state.Recalled[sandbox.Sandbox]
	err = h.Dir.View(ctx, func(tx *state.Tx) (err error) {
		records, err = sandbox.Recall(tx, h.Namespace, l.pods)
		return err
	})
	if err != nil {
		return nil, err
	}
	number, whole := l.watch.All()
	if number == l.all && number != 0 && state.SameRows(records, l.rows) {
		return l.last, nil
	}
	known := make(map[*sandbox.Sandbox]podListed, len(records))
	for _, r := range records {
		if r.Err != nil {
			continue // fsck names it
		}
		dir, keep := l.watch.Number(h.dir(*r.Value))
		one, seen := l.statuses[r.Value]
		if !seen || one.dir != dir {
			st, err := h.listed(*r.Value)
			if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
				whole = false
				continue
			}
			if err != nil {
				return nil, err
			}
			one = podListed{dir, st}
		}
		if one.status != nil {
			all = append(all, one.status)
			keep = keep && one.status.Pause == "" // nothing is written when the process of a pause image ends
		}
		if keep {
			known[r.Value] = one
		}
		whole = whole && keep
	}
	l.statuses, l.rows, l.last = known, records, slices.Clip(all)
	if l.all = 0; whole {
		l.all = number
	}
	return l.last, nil
}

// listed looks at a pod for a list; nil: it is nobody's yet.
func (h Host) listed(s sandbox.Sandbox) (*Status, error) {
	c, err := configOf(s)
	if err != nil {
		return nil, err
	}
	st, err := h.status(s, c)
	if err != nil {
		return nil, err
	}
	if !st.Ready {
		if v, err := taskdir.LookPod(h.dir(s)); err == nil && v.Starting {
			return nil, nil
		}
	}
	return &st, nil
}

// ListContainers tells of all containers of pods, by id, without Resource and User. One whose record cannot be read is left out. It changes nothing and waits for
// nobody. What it gives must not be changed; with Lists, a container of which nothing has changed has the same pointer as before, and the
// list is the same slice when nothing has changed at all.
func (h Host) ListContainers(ctx context.Context) (all []*ContainerStatus, err error) {
	l := h.lists()
	infos, err := l.tasks.All(ctx)
	if err != nil && !errdefs.IsDataLoss(err) { // fsck names it
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(infos) > 0 && slices.Equal(infos, l.infos) {
		return l.told, nil
	}
	whole := true
	known, pods := make(map[*task.Info]*ContainerStatus, len(infos)), map[string]bool{}
	for _, info := range infos {
		st := l.containers[info]
		if st == nil {
			now, err := h.containerStatus(ctx, *info, pods)
			if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
				whole = false
				continue
			}
			if err != nil {
				return nil, err
			}
			st = &now
		}
		if info.Status != task.Created && info.Status != task.Starting { // of these, the pod says more
			known[info] = st
		} else {
			whole = false
		}
		all = append(all, st)
	}
	l.containers, l.told = known, slices.Clip(all)
	if l.infos = nil; whole {
		l.infos = infos
	}
	return l.told, nil
}
