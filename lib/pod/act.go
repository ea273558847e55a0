// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// State is what a container is doing, as a kubelet counts.
type State string

// The states of a container.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
	Unknown State = "unknown" // its supervisor was killed; the next act on it ends it
)

// ContainerStatus is a container and what it is doing.
type ContainerStatus struct {
	ContainerConfig
	ID       string
	Pod      string // id
	State    State
	PID      int // of its first process, as long as it lives
	Created  time.Time
	Started  time.Time     // zero: it has not been started
	Exit     *taskdir.Exit // of Exited
	LogFile  string        // path; empty: a log of ctrd's own
	Signal   string        // the signal that asks it to stop; empty: TERM
	Resource *specs.LinuxResources
	User     specs.User // of its first process
	Cgroup   string     // of its task, below the hierarchies; empty: it has not been started
	// Snapshotter and SnapshotKey name its writable layer.
	Snapshotter, SnapshotKey string
}

// lostStatus is the exit status of a container whose exit nobody has seen, as containerd has it.
const lostStatus = 255

// configOfContainer reads what a container was made from. One that is in no pod of ours is errdefs.ErrNotFound.
func configOfContainer(c container.Container) (cfg ContainerConfig, err error) {
	if len(c.Pod) == 0 {
		return cfg, fmt.Errorf("container %q is in no pod: %w", c.ID, errdefs.ErrNotFound)
	}
	if err := json.Unmarshal(c.Pod, &cfg); err != nil {
		return cfg, fmt.Errorf("container %q: %w: %w", c.ID, err, errdefs.ErrDataLoss)
	}
	return cfg, nil
}

// Open finds a container of a pod by its id, or the beginning of it. One that is not there, or in no pod, is
// errdefs.ErrNotFound.
func (h Host) Open(ctx context.Context, id string) (*task.Task, error) {
	t, err := task.Open(ctx, h.Dir, h.Namespace, id)
	if errdefs.IsNotFound(err) {
		if whole, e := h.complete(ctx, id); e == nil {
			t, err = task.Open(ctx, h.Dir, h.Namespace, whole)
		} else if !errdefs.IsNotFound(e) {
			err = e
		}
	}
	if err == nil && len(t.Container.Pod) == 0 {
		err = fmt.Errorf("container %q is in no pod: %w", id, errdefs.ErrNotFound)
	}
	return t, err
}

// complete gives the id that begins with id.
func (h Host) complete(ctx context.Context, id string) (whole string, err error) {
	err = h.Dir.View(ctx, func(tx *state.Tx) error {
		whole, err = container.Complete(tx, h.Namespace, id)
		return err
	})
	return whole, err
}

// StartContainer starts a container that is created. One that runs is success; one that has ended is
// errdefs.ErrFailedPrecondition. While another call starts it, that one is waited for.
func (h Host) StartContainer(ctx context.Context, id string) (err error) {
	defer func() {
		if err != nil && !strings.HasPrefix(err.Error(), "start container ") { // of lib/task
			err = fmt.Errorf("start container %q: %w", id, err)
		}
	}()
	t, err := h.Open(ctx, id)
	if err != nil {
		return err
	}
	l, err := h.lockKey(ctx, "start\x00"+t.ID()+"\x00"+t.Container.UID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if t, err = h.Open(ctx, t.ID()); err != nil {
		return err
	}
	defer t.Close()
	// Of a start that was killed before the container was made nothing is left then; what the supervisor had begun is done.
	if err := t.Settle(ctx); err != nil {
		return err
	}
	if t, err = h.Open(ctx, t.ID()); err != nil {
		return err
	}
	defer t.Close()
	if runs, err := running(ctx, t); err != nil || runs {
		return err
	}
	if err := h.ask(ctx, ContainerStart, t); err != nil {
		return err
	}
	if err := t.Start(ctx, task.StartOptions{Shim: h.Shim}); err != nil {
		// The supervisor may just have started it, as a killed call had asked.
		now, e := h.Open(ctx, t.ID())
		if e != nil {
			return err
		}
		if runs, e := running(ctx, now); e != nil || !runs {
			return err
		}
	}
	h.tell(ctx, ContainerStarted, t.ID())
	return nil
}

// running tells whether a container runs. One that has ended is errdefs.ErrFailedPrecondition.
func running(ctx context.Context, t *task.Task) (bool, error) {
	info, err := t.Info(ctx)
	if err == nil && (info.Status == task.Stopped || info.Status == task.Orphaned) {
		err = fmt.Errorf("it has ended: %w", errdefs.ErrFailedPrecondition)
	}
	return info.Status == task.Running || info.Status == task.Paused, err
}

// StopContainer asks a container to end with its stop signal, and kills it after the grace; at once when that is 0. One that
// does not run, or is not there, is success.
func (h Host) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	t, err := h.Open(ctx, id)
	if err == nil {
		defer t.Close()
		if grace <= 0 {
			err = t.End(ctx)
		} else {
			err = t.Stop(ctx, 0, grace)
		}
		if err == nil {
			err = h.tellStopped(ctx, t)
		}
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("stop container %q: %w", id, err)
	}
	return nil
}

// RemoveContainer removes a container; one that runs is killed first. Its log stays where a client has wanted it. One that
// is not there is success.
func (h Host) RemoveContainer(ctx context.Context, id string) error {
	defer h.Dir.EmptyTrash()
	t, err := h.Open(ctx, id)
	if err == nil {
		err = h.removeContainer(ctx, t)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// UpdateContainer changes the bounds of a container that are given, of the running one at once.
func (h Host) UpdateContainer(ctx context.Context, id string, r Resources) error {
	if err := r.check(); err != nil {
		return err
	}
	t, err := h.Open(ctx, id)
	if err != nil {
		return err
	}
	defer t.Close()
	info, err := t.Info(ctx)
	if err == nil && info.Status == task.Stopped {
		err = fmt.Errorf("update container %q: it has ended: %w", id, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return err
	}
	all, err := h.askUpdate(ctx, t, r.Spec())
	if err != nil {
		return fmt.Errorf("update container %q: %w", id, err)
	}
	if err := t.Update(ctx, all); err != nil {
		return err
	}
	h.tell(ctx, ContainerUpdated, t.ID())
	return nil
}

// ContainerStatus tells of a container, by its id or the beginning of it. It changes nothing and waits for nobody.
func (h Host) ContainerStatus(ctx context.Context, id string) (ContainerStatus, error) {
	st, _, err := h.Inspect(ctx, id)
	return st, err
}

// Inspect is ContainerStatus, with the container's spec.
func (h Host) Inspect(ctx context.Context, id string) (ContainerStatus, *specs.Spec, error) {
	t, err := h.Open(ctx, id)
	if err != nil {
		return ContainerStatus{}, nil, err
	}
	return h.inspect(ctx, t)
}

func (h Host) inspect(ctx context.Context, t *task.Task) (ContainerStatus, *specs.Spec, error) {
	info, err := t.Info(ctx)
	if err != nil {
		return ContainerStatus{}, nil, err
	}
	st, err := h.containerStatus(ctx, info, map[string]bool{})
	if err != nil {
		return st, nil, err
	}
	s, err := t.Spec(ctx)
	if err != nil {
		return st, nil, err
	}
	if s.Process != nil {
		st.User = s.Process.User
	}
	if s.Linux != nil {
		st.Resource = s.Linux.Resources
	}
	return st, s, nil
}

// containerStatus translates what a container is doing. known remembers which pods are there in this boot.
func (h Host) containerStatus(ctx context.Context, info task.Info, known map[string]bool) (ContainerStatus, error) {
	c, err := configOfContainer(info.Container)
	if err != nil {
		return ContainerStatus{}, err
	}
	st := ContainerStatus{
		ContainerConfig: c, ID: info.ID, Pod: info.Sandbox, PID: info.PID, LogFile: info.LogPath, Signal: info.StopSignal,
		Created: info.Created, Started: info.Started, Exit: info.Exit, Cgroup: info.Cgroup, Snapshotter: info.Snapshotter, SnapshotKey: info.SnapshotKey,
	}
	switch info.Status {
	case task.Created, task.Starting:
		st.State = Created
		there, seen := known[info.Sandbox]
		if !seen {
			s, err := h.get(ctx, info.Sandbox)
			if err != nil && !errdefs.IsNotFound(err) {
				return st, err
			}
			if err == nil {
				v, err := taskdir.LookPod(h.dir(s))
				if err != nil {
					return st, err
				}
				there = v.Known
			}
			known[info.Sandbox] = there
		}
		if !there {
			// Whatever it did, it did so before the pod ended or in another boot.
			st.State, st.Exit = Exited, &taskdir.Exit{Status: lostStatus, ExitedAt: info.Updated, Reason: "its pod has ended"}
		}
	case task.Running, task.Paused, task.Restarting:
		st.State = Running
	case task.Stopped:
		st.State = Exited
	default:
		st.State = Unknown
	}
	return st, nil
}
