// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"net"

	"github.com/containerd/errdefs"
)

// Server is the service containerd.task.v3.Task. Its methods are called
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

// Serve answers calls on l, a unix socket, with s until ctx ends or accepting
// becomes impossible; it closes l. Only peers of the server's own uid and root
// are served.
//
// A call's context ends when its connection goes away, when the caller's
// timeout passes and when ctx ends. After ctx has ended, Serve takes no more
// calls, waits for those that run, sends their responses (each connection has
// two seconds for that), and returns nil: Shutdown may end ctx and its caller
// still gets an answer.
func Serve(ctx context.Context, l net.Listener, s Server) error {
	return errdefs.ErrNotImplemented
}
