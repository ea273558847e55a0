// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Listing lists the containers of one namespace for a server whose clients ask every second. It reads again only what has changed, as the
// commits of the databases and [taskdir.Watch] tell. It may be used by several at once.
type Listing struct {
	d       *state.Dir
	ns      string
	records *container.Memory
	watch   *taskdir.Watch

	mu      sync.Mutex
	known   map[string]listed // by id
	started map[string]bool   // see startedIn
	tasks   uint64            // number of the directory that started was read from; 0: it was not, or is about to change

	rows []state.Recalled[container.Container] // that last was made from
	last []*Info                               // the last list
	all  uint64                                // number of all directories that last was made from; 0: some of it may not be kept
}

// listed is what the last list said of a container, and from which record and files.
type listed struct {
	record    *container.Container
	inc       taskdir.Incarnation
	base, dir watched // of its tasks, and of this one; nothing where it has no task
	info      *Info
}

// watched is a directory, and its number when it was read.
type watched struct {
	path   string
	number uint64
}

// number gives a directory its number, and tells whether what is read of it from now on may be kept.
func (l *Listing) number(path string) (w watched, keep bool) {
	n, keep := l.watch.Number(path)
	return watched{path, n}, keep
}

// stands tells whether a directory is as it was read.
func (l *Listing) stands(w watched) bool {
	n, _ := l.watch.Number(w.path)
	return n == w.number && n != 0
}

// NewListing makes a listing that knows nothing yet. With a nil watch it is for one list: it keeps nothing of tasks.
func NewListing(d *state.Dir, ns string, watch *taskdir.Watch) *Listing {
	return &Listing{d: d, ns: ns, records: container.NewMemory(), watch: watch}
}

// Forget gives up what is kept, but for the watch.
func (l *Listing) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records.Forget()
	l.known, l.started, l.tasks = nil, nil, 0
	l.rows, l.last, l.all = nil, nil, 0
}

// All is [All], but for what is not in the directory of a task: one that is paused is told as Running, and Attached is nil. What it gives must not be
// changed. Of a container of which nothing has changed it gives the same pointer again, and the same slice when nothing has changed at all.
func (l *Listing) All(ctx context.Context) ([]*Info, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watch.Update()
	var records []state.Recalled[container.Container]
	err := l.d.View(ctx, func(tx *state.Tx) (err error) {
		records, err = container.Recall(tx, l.ns, l.records)
		return err
	})
	if err != nil {
		return nil, err
	}
	number, whole := l.watch.All()
	if number == l.all && number != 0 && state.SameRows(records, l.rows) {
		return l.last, nil
	}
	tasks, keep := l.watch.Number(l.d.Run("tasks", l.ns))
	if tasks == 0 || tasks != l.tasks {
		if l.started, err = startedIn(l.d, l.ns); err != nil {
			return nil, err
		}
		if l.tasks = 0; keep {
			l.tasks = tasks
		}
	}
	whole = whole && keep
	var lost error
	all, known := make([]*Info, 0, len(records)), make(map[string]listed, len(records))
	for _, r := range records {
		if r.Err != nil {
			lost = errors.Join(lost, r.Err)
			continue
		}
		one, keep, err := l.one(ctx, r.Value, l.started[r.Key])
		whole = whole && keep && err == nil
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, one.info)
		if keep {
			known[r.Key] = one
		}
	}
	l.known, l.rows, l.last = known, records, slices.Clip(all)
	if l.all = 0; whole && lost == nil {
		l.all = number
	}
	return l.last, lost
}

// startedIn names the containers of a namespace that have a directory for tasks.
func startedIn(d *state.Dir, ns string) (map[string]bool, error) {
	entries, err := os.ReadDir(d.Run("tasks", ns))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	started := make(map[string]bool, len(entries))
	for _, e := range entries {
		started[e.Name()] = true
	}
	return started, nil
}

// one looks at a container, and tells whether that may be kept.
func (l *Listing) one(ctx context.Context, c *container.Container, started bool) (now listed, keep bool, err error) {
	was, same := l.known[c.ID]
	same = same && was.record == c
	if !started {
		if same && was.inc == "" {
			return was, true, nil
		}
		return listed{record: c, info: &Info{Container: *c, Status: Created}}, true, nil
	}
	same = same && was.inc != "" && l.stands(was.base)
	if same && l.stands(was.dir) {
		return was, true, nil
	}
	t := &Task{Container: *c, Namespace: l.ns, d: l.d}
	now.record = c
	base, keepBase := l.number(t.base())
	if now.base = base; same {
		t.inc = was.inc
	} else if t.inc, err = taskdir.Current(t.base()); err != nil {
		return now, false, err
	}
	now.inc = t.inc
	if t.inc != "" {
		dir, keepDir := l.number(t.Dir())
		now.dir = dir
		v, err := taskdir.Look(t.Dir())
		if err != nil {
			return now, false, err
		}
		// A foreign shim has no lock, and of an end it writes nothing: it is asked each time. So is what belongs to another container.
		if !v.Supervisor.Foreign && (v.Task.UID == "" || v.Task.UID == c.UID) {
			if info, ok := t.told(v); ok {
				now.info = &info
				return now, keepBase && keepDir, nil
			}
		}
	}
	if err := t.refresh(); err != nil {
		return now, false, err
	}
	info, err := t.Info(ctx)
	if info.Status == Paused {
		info.Status = Running
	}
	info.Attached, now.info = nil, &info
	return now, false, err
}
