// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Update changes the limits that r names, of the running task at once and of later ones. What r does not name
// stays.
func (t *Task) Update(ctx context.Context, r *specs.LinuxResources) error {
	if err := t.update(ctx, r); err != nil {
		return fmt.Errorf("update container %q: %w", t.ID(), err)
	}
	return nil
}

func (t *Task) update(ctx context.Context, r *specs.LinuxResources) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	v, err := t.view(ctx)
	if err != nil {
		return err
	}
	// The task first: what the kernel refuses is not recorded.
	if v.State == taskdir.Running || v.State == taskdir.Created {
		any := &taskapi.Any{TypeURL: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: data}
		err := t.call(ctx, t.patience(), func(ctx context.Context, c *taskapi.Client) error {
			return c.Update(ctx, &taskapi.UpdateTaskRequest{ID: t.ID(), Resources: any})
		})
		if err != nil {
			return err
		}
	}
	return t.change(ctx, func(_ *container.Container, s *specs.Spec) error {
		if s.Linux == nil {
			s.Linux = &specs.Linux{}
		}
		if s.Linux.Resources == nil {
			s.Linux.Resources = &specs.LinuxResources{}
		}
		return json.Unmarshal(data, s.Linux.Resources) // into what is there
	})
}

// SetRestart changes the restart policy, of the running task too. A transient container has none.
func (t *Task) SetRestart(ctx context.Context, r taskdir.Restart) error {
	err := t.change(ctx, func(c *container.Container, _ *specs.Spec) error {
		if c.Transient && r.Policy != "" {
			return fmt.Errorf("a container of --rm is not restarted: %w", errdefs.ErrInvalidArgument)
		}
		labels := maps.Clone(c.Labels)
		maps.DeleteFunc(labels, func(key, _ string) bool { return container.IsRestartLabel(key) })
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, container.RestartLabels(r))
		c.Labels = labels
		var now taskdir.Task
		if known, err := taskdir.Read(t.Dir(), taskdir.Record, &now); err != nil || !known {
			return err
		}
		r.Count = now.Restart.Count
		now.Restart = r
		return taskdir.Write(t.Dir(), taskdir.Record, now)
	})
	if err != nil {
		return fmt.Errorf("update container %q: %w", t.ID(), err)
	}
	return nil
}

// relabel sets labels of the container.
func (t *Task) relabel(ctx context.Context, set map[string]string) error {
	return t.change(ctx, func(c *container.Container, _ *specs.Spec) error {
		labels := map[string]string{}
		maps.Copy(labels, c.Labels)
		maps.Copy(labels, set)
		c.Labels = labels
		return nil
	})
}

// commit is [state.Dir.Update] for the database that has the container's record.
func (t *Task) commit(ctx context.Context, l *lock.Lock, fn func(*state.Tx) error) error {
	if t.Container.Transient {
		return t.d.UpdateRun(ctx, l, fn)
	}
	return t.d.Update(ctx, l, fn)
}

// change rewrites the container's record and spec under its lock, in one commit.
func (t *Task) change(ctx context.Context, fn func(*container.Container, *specs.Spec) error) error {
	l, err := t.lock(ctx)
	if err != nil {
		return err
	}
	err = t.commit(ctx, l, func(tx *state.Tx) error {
		// Read again: a client of the API changes labels without the container's lock.
		c, err := container.Get(tx, t.Namespace, t.ID())
		if err != nil {
			return err
		}
		s, err := container.Spec(tx, t.Namespace, t.ID())
		if err != nil {
			return err
		}
		if err := fn(&c, s); err != nil {
			return err
		}
		if err := container.Put(tx, t.Namespace, c); err != nil {
			return err
		}
		t.Container = c
		return container.PutSpec(tx, t.Namespace, c.ID, s)
	})
	return errors.Join(err, l.Release())
}
