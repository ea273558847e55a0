// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// checkpointTime bounds a checkpoint: the memory of a container is written.
const checkpointTime = 6 * time.Minute

// Checkpoint has the processes of the running task written as criu's images into the directory o.ImagePath, which is made. With
// o.Exit the task ends, and no restart policy applies. One that fails leaves the task as it was. The caller that is killed
// leaves the supervisor at it, which goes on.
func (t *Task) Checkpoint(ctx context.Context, o taskapi.CheckpointOptions) error {
	err := t.checkpoint(ctx, o.ImagePath, taskapi.NewAny(&o))
	if err == nil && o.Exit {
		err = t.awaitEndFor(ctx, endWithin) // the supervisor records the end after it has answered
	}
	return err
}

// EndedByCheckpoint tells whether a task of which there is a dump has ended with that, or may have: of the caller that was killed nobody
// was told. One that is about to is waited for, and an orphan is ended. The task of a shim of others that has ended is always one.
func (t *Task) EndedByCheckpoint(ctx context.Context) (bool, error) {
	if err := t.awaitEndFor(ctx, endWithin); err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
		return false, err
	}
	v, err := taskdir.Look(t.Dir())
	if err != nil || v.State != taskdir.Stopped {
		return false, err
	}
	return v.Supervisor.Foreign || v.Exit.Reason == taskdir.Checkpointed || v.Exit.Reason == supervisorDied, nil
}

// PreDump has the memory of the running task written, as the parent of a later checkpoint, while it runs on.
func (t *Task) PreDump(ctx context.Context, o taskapi.CheckpointOptions) error {
	v, err := taskdir.Look(t.Dir())
	if err == nil && v.Supervisor.Foreign {
		err = fmt.Errorf("its shim is not ctr-shim, and makes no pre-dump: %w", errdefs.ErrNotImplemented)
	}
	if err != nil {
		return fmt.Errorf("checkpoint container %q: %w", t.ID(), err)
	}
	return t.checkpoint(ctx, o.ImagePath, taskapi.NewAny(&taskapi.PreDump{Options: taskapi.Marshal(&o)}))
}

func (t *Task) checkpoint(ctx context.Context, dir string, o *taskapi.Any) error {
	err := t.call(ctx, checkpointTime, func(ctx context.Context, c *taskapi.Client) error {
		return c.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: t.ID(), Path: dir, Options: o})
	})
	if !errdefs.IsUnavailable(err) || ctx.Err() != nil {
		return err
	}
	// A supervisor that ends with its task may not have come to say so.
	v, lerr := taskdir.Look(t.Dir())
	if lerr != nil || v.State != taskdir.Stopped || v.Exit.Reason == taskdir.Checkpointed || v.Exit.Reason == supervisorDied {
		return err
	}
	return fmt.Errorf("it has ended meanwhile: %w", &NotRunningError{t.ID(), Stopped})
}

// ToRestore tells whether the task is one that Start restores from a checkpoint: it is created and has no process yet.
func (t *Task) ToRestore() (bool, error) {
	if t.inc == "" {
		return false, nil
	}
	var init taskdir.Process
	created, err := taskdir.Read(t.Dir(), taskdir.Init, &init)
	return created && init.PID == 0, err
}
