// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Status is what a container is doing.
type Status string

// The states of a container.
const (
	Created  Status = "created"
	Starting Status = "starting"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
	Unknown  Status = "unknown" // its supervisor is gone and somebody is ending it
)

// Info is a container and what it is doing.
type Info struct {
	container.Container
	Status     Status        `json:"status"`
	PID        int           `json:"pid,omitempty"`        // of init, while it runs
	Supervisor int           `json:"supervisor,omitempty"` // pid of ctr-shim, while it runs
	Started    time.Time     `json:"started,omitzero"`
	Exit       *taskdir.Exit `json:"exit,omitempty"` // once it has stopped
}

// Get looks a container up as container.Find does, and sees what it is doing. It waits for
// nobody.
func Get(ctx context.Context, d *state.Dir, ns, query string) (Info, error) {
	c, err := find(ctx, d, ns, query)
	if err != nil {
		return Info{}, err
	}
	info, dead, err := look(d, ns, c)
	if err != nil || !dead {
		return info, err
	}
	finishSoon(ctx, d, ns, c.ID)
	if c, err = find(ctx, d, ns, c.ID); err != nil {
		return Info{}, err
	}
	info, _, err = look(d, ns, c)
	return info, err
}

// All lists the containers of a namespace by id, with what each is doing. It waits for nobody, and
// finishes what it finds dead where nobody else is at it.
func All(ctx context.Context, d *state.Dir, ns string) ([]Info, error) {
	var all []Info
	// The directories first: a record is written before its container has one.
	dirs, err := os.ReadDir(d.Run("tasks", ns))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	recorded := map[string]bool{}
	err = d.View(ctx, func(tx *state.Tx) error {
		for c, err := range container.All(tx, ns) {
			if err != nil {
				return err
			}
			all = append(all, Info{Container: c})
			recorded[c.ID] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, e := range dirs {
		if !recorded[e.Name()] {
			finishSoon(ctx, d, ns, e.Name()) // a removal that was cut short
		}
	}
	live := all[:0]
	for _, c := range all {
		info, dead, err := look(d, ns, c.Container)
		if err != nil {
			return nil, err
		}
		if dead {
			if info, err = Get(ctx, d, ns, c.ID); errdefs.IsNotFound(err) {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		live = append(live, info)
	}
	return live, nil
}

// look reads the task directory. It reports dead when the task must be finished first: nobody has it
// and its end is not recorded, or it is a transient one that has ended and nobody will remove.
func look(d *state.Dir, ns string, c container.Container) (info Info, dead bool, err error) {
	info = Info{Container: c, Status: Created}
	dir := Dir(d, ns, c.ID)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return info, c.Transient, nil
	}
	// The lock first: a supervisor records the exit before it lets go.
	alive, err := taskdir.Live(dir)
	if err != nil {
		return info, false, err
	}
	var p taskdir.Process
	started, err := taskdir.Read(dir, taskdir.Init, &p)
	if err != nil {
		return info, false, err
	}
	if st, err := os.Stat(filepath.Join(dir, taskdir.Init)); err == nil {
		info.Started = st.ModTime().UTC()
	}
	var exit taskdir.Exit
	ended, err := taskdir.Read(dir, taskdir.End, &exit)
	switch {
	case err != nil:
		return info, false, err
	case ended:
		info.Status, info.Exit = Stopped, &exit
		if c.Transient && !alive {
			client, err := lock.IsHeld(filepath.Join(dir, taskdir.ClientLock))
			return info, !client, err
		}
		return info, false, nil
	case !alive:
		info.Status = Unknown
		return info, true, nil
	case !started:
		info.Status = Starting
		return info, false, nil
	}
	info.Status, info.PID = Running, p.PID
	var s taskdir.Supervisor
	if _, err := taskdir.Read(dir, taskdir.Shim, &s); err == nil {
		info.Supervisor = s.PID
	}
	if frozen, err := cgroup.Frozen(cgroupOf(d, dir, ns, c.ID)); err == nil && frozen {
		info.Status = Paused
	}
	return info, false, nil
}
