// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// kindSandbox is the kind that containerd gives the container of a pause image.
const kindSandbox = "sandbox"

// pause runs the program of the pod's pause image in all namespaces of the pod, where the configuration has one. The container is
// in the pod, and ends and goes with it, but is none that a client has asked for: no call of this package knows it. It may
// be there already, as a killed call has left it.
func (h Host) pause(ctx context.Context, l *lock.Lock, s sandbox.Sandbox, c Config) error {
	if c.Pause == "" {
		return nil
	}
	id := containerID(s.ID, "", 0) // others have a name
	t, err := task.Open(ctx, h.Dir, h.Namespace, id)
	if err == nil {
		err = t.Remove(ctx, true)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if t, err = h.createPause(ctx, l, s, c, id); err != nil {
		return fmt.Errorf("pause image %q: %w", c.Pause, err)
	}
	if err = t.Start(ctx, task.StartOptions{Shim: h.Shim, Early: true}); err == nil {
		err = h.notePause(ctx, s, id)
	}
	if err != nil {
		err = fmt.Errorf("pause image %q: %w", c.Pause, err)
	}
	return errors.Join(err, t.Close())
}

// notePause writes down which process the pod's readiness depends on.
func (h Host) notePause(ctx context.Context, s sandbox.Sandbox, id string) error {
	t, err := task.Open(ctx, h.Dir, h.Namespace, id)
	if err != nil {
		return err
	}
	info, err := t.Info(ctx)
	if err = errors.Join(err, t.Close()); err != nil {
		return err
	}
	first, err := taskdir.ProcessOf(info.PID)
	if err != nil || info.Status != task.Running {
		return fmt.Errorf("its program has ended: %w", errors.Join(err, errdefs.ErrFailedPrecondition))
	}
	return taskdir.Write(h.dir(s), taskdir.PodPause, first)
}

func (h Host) createPause(ctx context.Context, l *lock.Lock, s sandbox.Sandbox, c Config, id string) (t *task.Task, err error) {
	le, err := lease.Take(h.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, le.Release()) }()
	o, err := h.options(ctx, l, le, s, c, ContainerConfig{ImageName: c.Pause, Security: Security{ReadOnlyRoot: true, NoNewPrivs: true}})
	if err != nil {
		return nil, err
	}
	o.ID, o.Pod = id, nil
	o.Labels[labelKind] = kindSandbox
	return task.Create(ctx, h.Dir, h.Namespace, o)
}
