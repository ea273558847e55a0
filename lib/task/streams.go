// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
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

// streams are the client's ends of an exec's FIFOs.
type streams struct {
	stdin          string // path, or empty
	stdout, stderr *os.File
}

func openStreams(dir string, o ExecOptions) (s *streams, err error) {
	s = &streams{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if o.Detach {
		return s, nil
	}
	if o.Stdin != nil {
		s.stdin = filepath.Join(dir, "stdin")
		if err := stdio.MakeFIFO(s.stdin); err != nil {
			return s, err
		}
	}
	for name, f := range map[string]**os.File{"stdout": &s.stdout, "stderr": &s.stderr} {
		if o.TTY && name == "stderr" {
			continue
		}
		path := filepath.Join(dir, name)
		if err := stdio.MakeFIFO(path); err != nil {
			return s, err
		}
		if *f, err = stdio.OpenReader(path); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *streams) name(f *os.File) string {
	if f == nil {
		return ""
	}
	return f.Name()
}

func (s *streams) close() {
	for _, f := range []*os.File{s.stdout, s.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// run copies the streams until the exec has ended, or ctx does.
func (s *streams) run(ctx context.Context, p *ExecProcess, o ExecOptions) (exit taskdir.Exit, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if s.stdin != "" {
		go func() {
			if err := s.feed(ctx, p, o.Stdin); err != nil {
				cancel(err)
			}
		}()
	}
	copies := make(chan error, 2)
	n := 0
	for f, w := range map[*os.File]io.Writer{s.stdout: o.Stdout, s.stderr: o.Stderr} {
		if f == nil {
			continue
		}
		if w == nil {
			w = io.Discard
		}
		n++
		go func() {
			_, err := io.Copy(w, f)
			switch ended := errors.Is(err, os.ErrDeadlineExceeded); {
			case ended && p.foreign:
				err = late(w, f)
			case ended:
				err = rest(w, f)
			}
			if err != nil {
				_ = p.Signal(ctx, unix.SIGKILL) // nobody takes what it has to say; it may have ended
				cancel(err)
			}
			copies <- err
		}()
	}
	w, err := p.t.api.Wait(ctx, &taskapi.WaitRequest{ID: p.t.ID(), ExecID: p.ExecID})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return exit, err
	}
	exit = taskdir.Exit{Status: int(w.ExitStatus), ExitedAt: w.ExitedAt}
	if o.Ended != nil {
		o.Ended()
	}
	// What it wrote is in the FIFOs by now, or on its way there. A process it left behind may keep them open: take
	// what is there and go.
	for _, f := range []*os.File{s.stdout, s.stderr} {
		if f != nil {
			f.SetReadDeadline(time.Unix(1, 0))
		}
	}
	for range n {
		select {
		case e := <-copies:
			err = errors.Join(err, e)
		case <-ctx.Done(): // whoever reads our output does not, and the caller is asked to end
			return exit, context.Cause(ctx)
		}
	}
	return exit, err
}

// feed passes the client's input on.
func (s *streams) feed(ctx context.Context, p *ExecProcess, in io.Reader) error {
	f, err := p.openStdin(ctx, s.stdin)
	if err == nil {
		if err := pass(f, in); err != nil {
			return err
		}
	}
	// It may have ended.
	_ = p.t.call(ctx, answerWithin, func(ctx context.Context, c *taskapi.Client) error {
		return c.CloseIO(ctx, &taskapi.CloseIORequest{ID: p.t.ID(), ExecID: p.ExecID, Stdin: true})
	})
	return nil
}

// openStdin opens the FIFO to write into. Ours has a reader once the exec runs; that of a foreign shim comes when it comes,
// and until the exec has ended, which ends ctx, it may be late.
func (p *ExecProcess) openStdin(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := stdio.OpenWriter(path)
		if err == nil || !p.foreign || !errdefs.IsUnavailable(err) {
			return f, err
		}
		if e := pause(ctx, pollEvery/10); e != nil {
			return nil, e
		}
	}
}

const (
	// quiet is how long a FIFO that a foreign shim writes into must have been silent, after the end of an exec, before
	// its end is not waited for any more.
	quiet = 5 * time.Second
	// maxLate bounds what is taken after the end of an exec, in bytes. It is more than a shim, its pipe and the FIFO hold.
	maxLate = 1 << 20
)

// late copies what a foreign shim writes into a FIFO after it has told the end of an exec, until the shim closes it.
func late(w io.Writer, f *os.File) error {
	buf := make([]byte, 64<<10)
	for left := maxLate; left > 0; {
		f.SetReadDeadline(time.Now().Add(quiet))
		n, err := f.Read(buf)
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		left -= n
		if err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rest copies what a FIFO holds at this moment.
func rest(w io.Writer, f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n := 0
		if e := c.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf) }); e != nil {
			return e
		}
		if n <= 0 {
			if err == unix.EINTR {
				continue
			}
			return nil
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
}
