// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"ctrd.dev/ctrd/lib/state"
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

// Logs copies what a container has written. One that has never run has written nothing; to follow it is to
// wait for it.
func Logs(ctx context.Context, d *state.Dir, ns, id string, o LogOptions) error {
	info, err := Get(ctx, d, ns, id)
	if err != nil {
		return err
	}
	follow := o.Follow && info.Status != Stopped
	if follow {
		if err := awaitStart(ctx, d, ns, info.ID); err != nil {
			return err
		}
	}
	r, err := stdio.Log{Path: LogPath(d, ns, info.ID)}.Open(ctx, stdio.ReadOptions{Follow: follow, Tail: o.Tail, Since: o.Since})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("log of container %q: %w", info.ID, err)
	}
	defer r.Close()
	if follow {
		go func() {
			_, _ = Wait(ctx, d, ns, info.ID) // however the wait ends, nothing more is written
			r.End()
		}()
	}
	return r.Copy(o.Stdout, o.Stderr, o.Stamps)
}

// awaitStart waits until a container has a log, or is gone.
func awaitStart(ctx context.Context, d *state.Dir, ns, id string) error {
	for {
		if _, err := os.Stat(LogPath(d, ns, id)); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if _, err := find(ctx, d, ns, id); err != nil {
			return err
		}
		if err := pause(ctx, pollEvery); err != nil {
			return err
		}
	}
}
