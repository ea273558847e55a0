// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Stop ends a pod: kills what runs in it, takes its network away and gives its namespaces up. Its record and those of its
// containers stay, with their exits and logs. A pod that is stopped, or is not there, is success.
func (h Host) Stop(ctx context.Context, id string) error { return h.end(ctx, "stop", id, h.stop) }

// end calls deed with a pod, under its lock. A pod that is not there is success.
func (h Host) end(ctx context.Context, verb, id string, deed func(context.Context, *lock.Lock, sandbox.Sandbox) error) error {
	defer h.Dir.EmptyTrash()
	s, _, l, err := h.locked(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil {
		err = errors.Join(deed(ctx, l, s), l.Release())
	}
	if err != nil {
		return fmt.Errorf("%s pod %q: %w", verb, id, err)
	}
	return nil
}

// stop is Stop under the pod's lock. Each step may have been done before.
func (h Host) stop(ctx context.Context, l *lock.Lock, s sandbox.Sandbox) error {
	dir := h.dir(s)
	v, err := taskdir.LookPod(dir)
	if err != nil {
		return err
	}
	if v.Known {
		taskdir.MarkStopping(dir)
	}
	if err := task.EndPod(ctx, h.Dir, dir, func() time.Duration { return h.hookTime(ctx, s.ID) }); err != nil {
		return err
	}
	containers, err := h.containersOf(ctx, s.ID)
	if err != nil {
		return err
	}
	for _, one := range containers {
		// The supervisor has recorded the exits, unless it was killed.
		t, err := task.Open(ctx, h.Dir, h.Namespace, one.ID)
		if err == nil && t.Container.UID == one.UID {
			if err = t.End(ctx); err == nil {
				err = h.tellStopped(ctx, t)
			}
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("container %q: %w", one.ID, err)
		}
	}
	crash.Point("pod.ended")
	if err := h.disconnect(ctx, l, s); err != nil {
		return err
	}
	crash.Point("pod.disconnected")
	if c, err := configOf(s); err == nil && v.Whole {
		h.tellPod(ctx, PodStopped, s, c)
	}
	if err := endShm(dir); err != nil {
		return err
	}
	// Before the directory goes, which tells that nobody has: rather twice than never.
	if v.Known {
		_ = h.Dir.Journal().Append(h.Namespace, event.SandboxExit{SandboxID: s.ID, ExitedAt: time.Now().UTC()})
	}
	if err := h.Dir.Trash(dir); err != nil {
		return err
	}
	crash.Point("pod.stopped")
	return nil
}

// hookTime is how long the hooks may take that run after the stop of a pod's containers, side by side. What cannot be read is not waited for.
func (h Host) hookTime(ctx context.Context, id string) (longest time.Duration) {
	containers, err := h.containersOf(ctx, id)
	if err != nil {
		return 0
	}
	for _, one := range containers {
		if t, err := task.Open(ctx, h.Dir, h.Namespace, one.ID); err == nil && t.Container.UID == one.UID {
			longest = max(longest, t.PoststopTime())
		}
	}
	return longest
}

// Remove removes a pod with its containers; one that runs is stopped first. A pod that is not there is success.
func (h Host) Remove(ctx context.Context, id string) error { return h.end(ctx, "remove", id, h.remove) }

// remove is Remove under the pod's lock.
func (h Host) remove(ctx context.Context, l *lock.Lock, s sandbox.Sandbox) error {
	if err := h.stop(ctx, l, s); err != nil {
		return err
	}
	containers, err := h.containersOf(ctx, s.ID)
	if err != nil {
		return err
	}
	for _, one := range containers {
		t, err := task.Open(ctx, h.Dir, h.Namespace, one.ID)
		if err == nil && t.Container.UID == one.UID {
			err = h.removeContainer(ctx, t)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	crash.Point("pod.emptied")
	err = h.Dir.Update(ctx, l, func(tx *state.Tx) error {
		// A pod is a container of its own id to who listens, as with containerd; there is no event of a sandbox for this.
		tx.Emit(h.Namespace, event.ContainerDelete{ID: s.ID})
		return sandbox.Remove(tx, h.Namespace, s.ID)
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if c, e := configOf(s); err == nil && e == nil {
		h.tellPod(ctx, PodRemoved, s, c)
	}
	return err
}

// brief is the status of a pod, of one that cannot be looked at what its record says.
func (h Host) brief(s sandbox.Sandbox, c Config) Status {
	st, err := h.status(s, c)
	if err != nil {
		st = Status{Config: c, ID: s.ID, Created: s.Created}
	}
	return st
}
