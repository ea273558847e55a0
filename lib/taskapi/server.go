// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Server is the task service, of both versions. Its methods are called
// concurrently. An error reaches the caller as its errdefs kind and its text;
// a nil response without an error is an empty one.
type Server interface {
	State(ctx context.Context, r *StateRequest) (*StateResponse, error)
	Create(ctx context.Context, r *CreateTaskRequest) (*CreateTaskResponse, error)
	Start(ctx context.Context, r *StartRequest) (*StartResponse, error)
	Delete(ctx context.Context, r *DeleteRequest) (*DeleteResponse, error)
	Pids(ctx context.Context, r *PidsRequest) (*PidsResponse, error)
	Pause(ctx context.Context, r *PauseRequest) error
	Resume(ctx context.Context, r *ResumeRequest) error
	Checkpoint(ctx context.Context, r *CheckpointTaskRequest) error
	Kill(ctx context.Context, r *KillRequest) error
	Exec(ctx context.Context, r *ExecProcessRequest) error
	ResizePty(ctx context.Context, r *ResizePtyRequest) error
	CloseIO(ctx context.Context, r *CloseIORequest) error
	Update(ctx context.Context, r *UpdateTaskRequest) error
	Wait(ctx context.Context, r *WaitRequest) (*WaitResponse, error)
	Stats(ctx context.Context, r *StatsRequest) (*StatsResponse, error)
	Connect(ctx context.Context, r *ConnectRequest) (*ConnectResponse, error)
	Shutdown(ctx context.Context, r *ShutdownRequest) error
}

// Serve answers calls on l, a unix socket, with task and, unless that is nil,
// sandbox, until ctx ends or accepting becomes impossible; it closes l. Only
// peers of the server's own uid and root are served.
//
// A call's context ends when its connection goes away, when the caller's
// timeout passes and when ctx ends. After ctx has ended, Serve takes no more
// calls, waits for those that run, sends their responses (each connection has
// two seconds for that), and returns nil: Shutdown may end ctx and its caller
// still gets an answer.
func Serve(ctx context.Context, l net.Listener, task Server, sandbox SandboxServer) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	// Ends the connections too when accepting is what failed.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()

	uid := uint32(os.Geteuid())
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case err == nil:
			pause = 0
		case passing(err):
			pause = min(time.Second, 2*pause+time.Millisecond)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		default:
			return fmt.Errorf("accept on %q: %w", l.Addr().String(), err)
		}
		if !trusted(c, uid) {
			c.Close()
			continue
		}
		conns.Go(func() { serveConn(ctx, c, task, sandbox) })
	}
}

// passing tells whether accepting may succeed later.
func passing(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// trusted tells whether the peer of c is root or has our uid.
func trusted(c net.Conn, uid uint32) bool {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return err == nil && credErr == nil && (cred.Uid == 0 || cred.Uid == uid)
}
