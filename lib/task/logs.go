// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/stdio"
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
