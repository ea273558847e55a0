// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/task"
)

// maxExecOutput bounds what ExecSync answers of both streams together, in bytes, so that the answer fits into a message.
const maxExecOutput = 16<<20 - 64<<10

// running opens the task of a container that runs. Another state is errdefs.ErrFailedPrecondition.
func (s *Server) running(ctx context.Context, id string) (*task.Task, error) {
	if id == "" {
		return nil, fmt.Errorf("container_id: missing: %w", errdefs.ErrInvalidArgument)
	}
	t, err := s.pods().Open(ctx, id)
	if err != nil {
		return nil, err
	}
	info, err := t.Info(ctx)
	if err == nil && info.Status != task.Running {
		err = &task.NotRunningError{ID: t.ID(), Status: info.Status}
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// ExecSync runs a program to its end and answers what it wrote. After the timeout it is killed, which is
// context.DeadlineExceeded. Of more output than a message can have the beginning is answered, and the last line of stderr
// tells how many bytes are missing.
func (r runtimeService) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (_ *runtimeapi.ExecSyncResponse, err error) {
	if err := checkCmd(req.GetCmd()); err != nil {
		return nil, err
	}
	if req.GetTimeout() < 0 || req.GetTimeout() > int64(maxTimeout/time.Second) {
		return nil, fmt.Errorf("timeout: %d seconds: %w", req.GetTimeout(), errdefs.ErrInvalidArgument)
	}
	t, err := r.s.running(ctx, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if limit := time.Duration(req.GetTimeout()) * time.Second; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("exec in container %q: no end within %s: %w", t.ID(), limit, context.DeadlineExceeded))
		defer cancel()
	}
	room := &budget{left: maxExecOutput}
	out, errOut := &bounded{room: room}, &bounded{room: room}
	exit, err := t.Exec(ctx, task.ExecOptions{Args: req.GetCmd(), Stdout: out, Stderr: errOut, Kill: true})
	if err != nil {
		return nil, err
	}
	if room.lost > 0 {
		fmt.Fprintf(&errOut.buf, "\n[ctrd: %d more bytes of output are left out]\n", room.lost)
	}
	return &runtimeapi.ExecSyncResponse{Stdout: out.buf.Bytes(), Stderr: errOut.buf.Bytes(), ExitCode: int32(exit.Status)}, nil
}

// checkCmd refuses what is no program with arguments.
func checkCmd(cmd []string) error {
	if len(cmd) == 0 {
		return invalid("cmd", "missing")
	}
	for _, arg := range cmd {
		if strings.ContainsRune(arg, 0) {
			return invalid("cmd", "%.100q: a NUL byte", arg)
		}
	}
	return nil
}

// maxTimeout bounds times of requests, so that they fit a time.Duration.
const maxTimeout = 100 * 365 * 24 * time.Hour

// budget is what two buffers may hold together, in bytes.
type budget struct {
	mu         sync.Mutex
	left, lost int
}

// bounded is a buffer that takes no more than its budget and counts the rest.
type bounded struct {
	buf  bytes.Buffer // not embedded: its ReadFrom knows no bound
	room *budget
}

// Write implements io.Writer. It never fails.
func (b *bounded) Write(p []byte) (int, error) {
	b.room.mu.Lock()
	defer b.room.mu.Unlock()
	n := min(len(p), b.room.left)
	b.room.left -= n
	b.room.lost += len(p) - n
	b.buf.Write(p[:n])
	return len(p), nil
}

// Exec answers where a client can run a program in a running container, once.
func (r runtimeService) Exec(ctx context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := checkCmd(req.GetCmd()); err != nil {
		return nil, err
	}
	url, err := r.s.address(ctx, "exec", req.GetContainerId(), req, func(id string) session { return r.s.execSession(id, req) })
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ExecResponse{Url: url}, nil
}

// address gives where a client can come, once, for a session with a running container.
func (s *Server) address(ctx context.Context, kind, container string, asked streamsAsked, of func(id string) session) (string, error) {
	if err := checkStreams(asked); err != nil {
		return "", err
	}
	t, err := s.running(ctx, container)
	if err != nil {
		return "", err
	}
	defer t.Close()
	return s.streams.issue(kind, of(t.ID()))
}

// streamsAsked is what requests of Exec and Attach say of streams.
type streamsAsked interface {
	GetTty() bool
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
}

// checkStreams checks what a request says of streams. A terminal has one output.
func checkStreams(a streamsAsked) error {
	switch {
	case a.GetTty() && a.GetStderr():
		return fmt.Errorf("stderr: a terminal has stdout alone: %w", errdefs.ErrInvalidArgument)
	case !a.GetStdin() && !a.GetStdout() && !a.GetStderr():
		return fmt.Errorf("stdin, stdout, stderr: want one at least: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// session is what a client of Exec or Attach does once it has come: run serves it until its end.
type session struct {
	asked streamsAsked
	run   func(ctx context.Context, io remoteIO) error
}

// remoteIO are a client's streams. Those that it has not asked for are nil.
type remoteIO struct {
	in       io.Reader
	out, err io.Writer
	resize   <-chan remotecommand.TerminalSize
}

func (s *Server) execSession(id string, req *runtimeapi.ExecRequest) session {
	return session{req, func(ctx context.Context, streams remoteIO) error {
		t, err := s.running(ctx, id)
		if err != nil {
			return err
		}
		defer t.Close()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		exit, err := t.Exec(ctx, task.ExecOptions{
			Args: req.Cmd, TTY: req.Tty, Stdin: streams.in, Stdout: orDiscard(streams.out), Stderr: orDiscard(streams.err), Kill: true,
			Started: func(p *task.ExecProcess) { go follow(ctx, streams.resize, p.Resize) },
		})
		if err == nil && exit.Status != 0 {
			err = utilexec.CodeExitError{Err: fmt.Errorf("the program ended with status %d", exit.Status), Code: exit.Status}
		}
		return err
	}}
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// follow sets the size of a terminal to what the client says, as long as ctx lasts.
func follow(ctx context.Context, sizes <-chan remotecommand.TerminalSize, set func(ctx context.Context, width, height uint16) error) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_ = set(ctx, size.Width, size.Height) // the program may have ended
		case <-ctx.Done():
			return
		}
	}
}

// Attach answers where a client can join the streams of a running container, once.
func (r runtimeService) Attach(ctx context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	url, err := r.s.address(ctx, "attach", req.GetContainerId(), req, func(id string) session { return r.s.attachSession(id, req) })
	if err != nil {
		return nil, err
	}
	return &runtimeapi.AttachResponse{Url: url}, nil
}

func (s *Server) attachSession(id string, req *runtimeapi.AttachRequest) session {
	return session{req, func(ctx context.Context, streams remoteIO) error {
		t, err := s.running(ctx, id)
		if err != nil {
			return err
		}
		defer t.Close()
		if err := t.Connect(ctx); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go follow(ctx, streams.resize, t.Resize)
		o := task.AttachOptions{
			Stdout: orDiscard(streams.out), Stderr: orDiscard(streams.err), OutputFromNow: true,
			// A terminal is given up and taken up again, also that of kubectl run, which asks for an input that ends with its client.
			KeepStdin: !t.Container.StdinOnce || req.GetTty(),
		}
		if streams.in != nil && t.Container.Stdin {
			o.Stdin = untilGone{streams.in}
		}
		if _, err = t.Attach(ctx, o); errors.Is(err, stdio.ErrDetached) {
			err = nil
		}
		if o.Stdin != nil && !o.KeepStdin && ctx.Err() != nil { // the client is gone
			err = errors.Join(err, t.CloseStdin(context.WithoutCancel(ctx), ""))
		}
		return err
	}}
}

// untilGone reads what a client sends; when the client is gone, that is its end.
type untilGone struct{ io.Reader }

// Read implements io.Reader.
func (u untilGone) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

// ReopenContainerLog has a running container's output written to the file that now has the path of its log; where there is
// none, it is made. A container without a log path has nothing to open.
func (r runtimeService) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	t, err := r.s.running(ctx, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if path := t.Container.LogPath; path != "" {
		if err := (stdio.Log{Path: path, Shared: true}).Reopen(); err != nil {
			return nil, fmt.Errorf("log of container %q: %w", t.ID(), err)
		}
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}
