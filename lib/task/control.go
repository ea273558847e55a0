// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Pause stops every process of the task where it is.
func (t *Task) Pause(ctx context.Context) error {
	return t.call(ctx, t.patience(), func(ctx context.Context, c *taskapi.Client) error {
		return c.Pause(ctx, &taskapi.PauseRequest{ID: t.ID()})
	})
}

// Resume lets the processes of a paused task go on.
func (t *Task) Resume(ctx context.Context) error {
	return t.call(ctx, t.patience(), func(ctx context.Context, c *taskapi.Client) error {
		return c.Resume(ctx, &taskapi.ResumeRequest{ID: t.ID()})
	})
}

// Processes lists the pids of a running task, as the host sees them.
func (t *Task) Processes(ctx context.Context) ([]int, error) {
	cg, err := t.runningCgroup(ctx)
	if err != nil {
		return nil, err
	}
	return cgroup.Pids(cg)
}

// Measure reads what a running task uses.
func (t *Task) Measure(ctx context.Context) (cgroup.Stats, error) {
	cg, err := t.runningCgroup(ctx)
	if err != nil {
		return cgroup.Stats{}, err
	}
	return cgroup.Measure(cg)
}

func (t *Task) runningCgroup(ctx context.Context) (string, error) {
	info, err := t.Info(ctx)
	if err != nil {
		return "", err
	}
	if info.Status != Running && info.Status != Paused {
		return "", &NotRunningError{ID: info.ID, Status: info.Status}
	}
	v, err := taskdir.Look(t.Dir())
	return t.cgroup(v), err
}
