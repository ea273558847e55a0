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

	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// AttachOptions say what a client wants of a running task.
type AttachOptions struct {
	Stdin          io.Reader // passed on until its end; nil: the container's stdin is left alone
	Stdout, Stderr io.Writer
	// KeepStdin leaves the container's stdin open at the end of Stdin, which ends the attach with [stdio.ErrDetached].
	KeepStdin     bool
	Since         time.Time // output from then on; zero: all that the log has
	OutputFromNow bool      // only output that comes from now on
	// Ended, when set, is called when the task has ended and what is left of its output is being written.
	Ended func()
}

// Attach copies the output of the task, from its log and at the client's own pace, and passes the
// client's input on, until the task has ended. It ends early with the context's error, with that of a
// write to the client, or with [stdio.ErrDetached] when Stdin gives that.
func (t *Task) Attach(ctx context.Context, o AttachOptions) (taskdir.Exit, error) {
	read := stdio.ReadOptions{Follow: true, Tail: -1, Since: o.Since}
	if o.OutputFromNow {
		read.Tail = 0
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := stdio.Log{Path: t.Log()}.Open(ctx, read)
	if err != nil {
		return taskdir.Exit{}, fmt.Errorf("attach to container %q: %w", t.ID(), err)
	}
	copied := make(chan error, 1)
	go func() {
		defer r.Close()
		err := r.Copy(o.Stdout, o.Stderr, false)
		if err != nil {
			cancel(err)
		}
		copied <- err
	}()
	if o.Stdin != nil {
		go func() {
			if err := t.feed(ctx, o.Stdin, o.KeepStdin); err != nil {
				cancel(err)
			}
		}()
	}
	exit, err := t.Wait(ctx)
	if err != nil && ctx.Err() != nil {
		return taskdir.Exit{}, context.Cause(ctx)
	}
	if err != nil {
		return taskdir.Exit{}, err
	}
	if o.Ended != nil {
		o.Ended()
	}
	r.End()
	select {
	case err = <-copied:
	case <-ctx.Done(): // whoever reads our output does not, and the caller is asked to end
		return exit, context.Cause(ctx)
	}
	if exit.Lost > 0 {
		err = errors.Join(err, fmt.Errorf("container %q ended with status %d, and %d bytes of its output are lost: they could not be written to its log",
			t.ID(), exit.Status, exit.Lost))
	}
	return exit, err
}

// Connect joins a client to a running task: a task that does not run is a [*NotRunningError], one that has no log an
// [*ElsewhereError].
func (t *Task) Connect(ctx context.Context) error {
	_, err := t.connect(ctx)
	if err == nil {
		err = t.checkLog()
	}
	if err != nil {
		return fmt.Errorf("attach to container %q: %w", t.ID(), err)
	}
	return nil
}

// feed copies in to the container's stdin and closes that at the end, or with keep returns [stdio.ErrDetached]. A
// container that reads no more is no error.
func (t *Task) feed(ctx context.Context, in io.Reader, keep bool) error {
	f, err := t.openStdin(ctx)
	if errors.Is(err, os.ErrNotExist) && !t.Container.Stdin {
		return fmt.Errorf("container %q was made without -i: it reads no input: %w", t.ID(), errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil // it has ended
	}
	if err := pass(f, in); err != nil {
		return err
	}
	if keep {
		return stdio.ErrDetached
	}
	// It may have ended.
	_ = t.call(ctx, answerWithin, func(ctx context.Context, c *taskapi.Client) error {
		return c.CloseIO(ctx, &taskapi.CloseIORequest{ID: t.ID(), Stdin: true})
	})
	return nil
}

// openStdin opens the FIFO to write into. Ours has a reader as long as the task runs; that of a foreign shim
// comes when it comes.
func (t *Task) openStdin(ctx context.Context) (*os.File, error) {
	for {
		f, err := stdio.OpenWriter(filepath.Join(t.Dir(), taskdir.Stdin))
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return f, err
		}
		if v, e := t.view(ctx); e != nil || !v.Supervisor.Foreign || v.State != taskdir.Running && v.State != taskdir.Created {
			return f, err
		}
		if e := pause(ctx, pollEvery/10); e != nil {
			return nil, e
		}
	}
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
	return t.call(ctx, answerWithin, func(ctx context.Context, c *taskapi.Client) error {
		return c.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: t.ID(), Width: uint32(width), Height: uint32(height)})
	})
}

// Signal passes a signal on to the task's first process, as a client does with those that it gets.
func (t *Task) Signal(ctx context.Context, sig unix.Signal) error {
	return t.call(ctx, answerWithin, func(ctx context.Context, c *taskapi.Client) error {
		return c.Kill(ctx, &taskapi.KillRequest{ID: t.ID(), Signal: uint32(sig)})
	})
}
