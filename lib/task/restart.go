// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Restart stops the container as [Task.Stop] does, and starts it again.
func (t *Task) Restart(ctx context.Context, grace time.Duration, o StartOptions) error {
	if err := t.Stop(ctx, 0, grace); err != nil {
		return err
	}
	now, err := t.reopen(ctx)
	if err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	*t = *now
	return t.Start(ctx, o)
}

// StartAgain is what a supervisor asks for when its task has ended and the restart policy wants another: it starts
// the container if the task that is meant is still its last one and nobody has ended it on purpose. Otherwise it
// does nothing.
func (t *Task) StartAgain(ctx context.Context, o StartOptions) error {
	v, err := taskdir.Look(t.Dir())
	if err != nil || v.State != taskdir.Stopped || t.stopping() {
		return err
	}
	o.after = &v
	err = t.Start(ctx, o)
	if errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) {
		return nil // somebody else has started or removed it
	}
	return err
}

// stopping tells whether somebody has ended the task on purpose.
func (t *Task) stopping() bool { return taskdir.IsStopping(t.Dir()) }

// restartedMeanwhile tells whether the supervisor of the task that is meant had begun to start another one when that was
// stopped, and means the new one then. What a person has started since is left alone.
func (t *Task) restartedMeanwhile(ctx context.Context) (bool, error) {
	if t.inc == "" || container.RestartOf(t.Container.Labels).Policy == "" {
		return false, nil
	}
	l, err := t.lock(ctx) // a start that is not seen now sees the mark of the stop
	if err != nil {
		if errdefs.IsNotFound(err) {
			err = nil // it has been removed
		}
		return false, err
	}
	now, err := t.present()
	if err = errors.Join(err, l.Release()); err != nil || now.inc == "" || now.inc == t.inc {
		return false, err
	}
	v, err := taskdir.Look(now.Dir())
	if err != nil || v.Task.Restart.Count == 0 {
		return false, err
	}
	t.inc = now.inc
	return true, t.Close()
}

// restart is the policy of a new task, with the restarts that led to it counted; after is the task before when its
// supervisor asks for the start.
func (t *Task) restart(after *taskdir.View) taskdir.Restart {
	r := container.RestartOf(t.Container.Labels)
	r.Count = 0
	if after == nil {
		return r
	}
	if r.Count = after.Task.Restart.Count + 1; after.Exit.ExitedAt.Sub(after.Started) >= taskdir.SettledAfter {
		r.Count = 1
	}
	return r
}

// countRestart records in the label that containerd's clients read how many restarts led to the task that is about to run.
func (t *Task) countRestart(ctx context.Context, after *taskdir.View) error {
	err := t.relabel(ctx, map[string]string{container.LabelRestartCount: strconv.Itoa(t.restart(after).Count)})
	if err != nil {
		return fmt.Errorf("restart labels: %w", err)
	}
	return nil
}

// meantToRun records whether the container is meant to run, where a restart policy makes a difference: in the
// labels that containerd's clients read.
func (t *Task) meantToRun(ctx context.Context, runs bool) error {
	want := map[string]string{container.LabelRestartStatus: "running", container.LabelRestartStopped: "false"}
	if !runs {
		want = map[string]string{container.LabelRestartStatus: "stopped", container.LabelRestartStopped: "true"}
	}
	labels := t.Container.Labels
	if container.RestartOf(labels).Policy == "" || labels[container.LabelRestartStatus] == want[container.LabelRestartStatus] {
		return nil
	}
	err := t.relabel(ctx, want)
	if err != nil {
		return fmt.Errorf("restart labels: %w", err)
	}
	return nil
}
