// SPDX-License-Identifier: Apache-2.0

package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskdir"
)

// LogOptions say which part of a log to read and where it goes.
type LogOptions struct {
	Follow         bool      // until the container ends
	Stamps         bool      // begin each line with its time
	Tail           int       // only the last so many lines; negative: all
	Since          time.Time // only what is not older
	Stdout, Stderr io.Writer
}

// Logs copies what the container has written. One that has never run has written nothing; to follow it is to
// wait for it.
func (t *Task) Logs(ctx context.Context, o LogOptions) error {
	info, err := t.Info(ctx)
	if err != nil {
		return err
	}
	if err := t.checkLog(); err != nil {
		return err
	}
	follow := o.Follow && info.Status != Stopped && info.Status != Orphaned
	if follow {
		if err := t.awaitLog(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := stdio.Log{Path: t.Log()}.Open(ctx, stdio.ReadOptions{Follow: follow, Tail: o.Tail, Since: o.Since})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("log of container %q: %w", t.ID(), err)
	}
	defer r.Close()
	if follow {
		go func() {
			if _, err := t.Wait(ctx); err != nil && !errdefs.IsNotFound(err) {
				cancel(err)
			}
			r.End()
		}()
	}
	err = r.Copy(o.Stdout, o.Stderr, o.Stamps)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// ElsewhereError says that a task's output goes where its client wants it, and to no log of ours. Its kind is
// errdefs.ErrFailedPrecondition.
type ElsewhereError struct {
	ID string
	IO taskdir.IO
}

// Error names the container and where its output goes.
func (e *ElsewhereError) Error() string {
	if e.IO.Stdout == "" && e.IO.Stderr == "" {
		return fmt.Sprintf("container %q has no log: the client that started it throws its output away", e.ID)
	}
	return fmt.Sprintf("container %q has no log: its output goes to %s, as the client that started it has asked", e.ID, cmp.Or(e.IO.Stdout, e.IO.Stderr))
}

// Unwrap gives the kind.
func (e *ElsewhereError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// checkLog refuses the log of a task that has none.
func (t *Task) checkLog() error {
	var r taskdir.Task
	if _, err := taskdir.Read(t.Dir(), taskdir.Record, &r); err != nil || r.IO == nil {
		return err
	}
	return &ElsewhereError{t.ID(), *r.IO}
}

// awaitLog waits until the container has a log, or is gone.
func (t *Task) awaitLog(ctx context.Context) error {
	for {
		if _, err := os.Stat(t.Log()); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if _, err := t.reopen(ctx); err != nil {
			return err
		}
		if err := pause(ctx, pollEvery); err != nil {
			return err
		}
	}
}
