// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// AttachOptions say what a client wants of a running task.
type AttachOptions struct {
	Stdin          io.Reader // passed on until its end; nil: the container's stdin is left alone
	Stdout, Stderr io.Writer
	Since          time.Time // output from then on; zero: all that the log has
	OutputFromNow  bool      // only output that comes from now on
}

// Attach copies the output of a running task, from its log and at the client's own pace, and passes the
// client's input on, until the task has ended. It ends early with the context's error, with that of a
// write to the client, or with [stdio.ErrDetached] when Stdin gives that.
func Attach(ctx context.Context, d *state.Dir, ns string, t *Task, o AttachOptions) (taskdir.Exit, error) {
	read := stdio.ReadOptions{Follow: true, Tail: -1, Since: o.Since}
	if o.OutputFromNow {
		read.Tail = 0
	}
	r, err := stdio.Log{Path: LogPath(d, ns, t.ID)}.Open(ctx, read)
	if err != nil {
		return taskdir.Exit{}, fmt.Errorf("attach to container %q: %w", t.ID, err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	copied := make(chan error, 1)
	go func() {
		err := r.Copy(o.Stdout, o.Stderr, false)
		if err != nil {
			cancel(err)
		}
		copied <- err
	}()
	if o.Stdin != nil {
		go func() {
			if err := t.feed(ctx, d, ns, o.Stdin); err != nil {
				cancel(err)
			}
		}()
	}
	exit, err := Wait(ctx, d, ns, t.ID)
	if err != nil && ctx.Err() != nil {
		return taskdir.Exit{}, context.Cause(ctx)
	}
	if err != nil {
		return taskdir.Exit{}, err
	}
	r.End()
	err = <-copied
	if exit.Lost > 0 {
		err = errors.Join(err, fmt.Errorf("container %q ended with status %d, and %d bytes of its output are lost: they could not be written to its log",
			t.ID, exit.Status, exit.Lost))
	}
	return exit, err
}

// Connect joins a client to a running container.
func Connect(ctx context.Context, d *state.Dir, ns, id string) (*Task, error) {
	info, err := Get(ctx, d, ns, id)
	if err != nil {
		return nil, err
	}
	c, err := connect(ctx, d, ns, info.ID)
	if err != nil {
		return nil, fmt.Errorf("attach to container %q: %w", info.ID, err)
	}
	return &Task{ID: info.ID, PID: info.PID, Client: c}, nil
}

// feed copies in to the container's stdin and closes that at the end. A container that reads no more is
// no error.
func (t *Task) feed(ctx context.Context, d *state.Dir, ns string, in io.Reader) error {
	f, err := stdio.OpenWriter(filepath.Join(Dir(d, ns, t.ID), taskdir.Stdin))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("container %q was made without -i: it reads no input: %w", t.ID, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil // it has ended
	}
	if err := pass(f, in); err != nil {
		return err
	}
	_ = t.Client.CloseIO(ctx, &taskapi.CloseIORequest{ID: t.ID, Stdin: true}) // it may have ended
	return nil
}

// pass copies in to a FIFO and closes it. That nobody reads any more is no error.
func pass(f *os.File, in io.Reader) error {
	_, err := io.Copy(f, in)
	if e := f.Close(); err == nil {
		err = e
	}
	if errors.Is(err, unix.EPIPE) {
		return nil
	}
	return err
}

// Resize sets the size of the task's terminal.
func (t *Task) Resize(ctx context.Context, width, height uint16) error {
	return t.Client.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: t.ID, Width: uint32(width), Height: uint32(height)})
}

// Signal sends a signal to the task's first process.
func (t *Task) Signal(ctx context.Context, sig unix.Signal) error {
	return t.Client.Kill(ctx, &taskapi.KillRequest{ID: t.ID, Signal: uint32(sig)})
}

// HasStdin tells whether the container was made with its stdin kept open.
func HasStdin(ctx context.Context, d *state.Dir, ns, id string) (bool, error) {
	c, err := find(ctx, d, ns, id)
	return c.Stdin, err
}
