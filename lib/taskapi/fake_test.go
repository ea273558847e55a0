// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// fake answers every method by one function, which gets and gives the structs
// of this package.
type fake func(ctx context.Context, method string, q message) (message, error)

func give[R any, P pointer[R]](f fake, ctx context.Context, method string, q message) (P, error) {
	r, err := f(ctx, method, q)
	p, _ := r.(P)
	return p, err
}

func (f fake) none(ctx context.Context, method string, q message) error {
	_, err := f(ctx, method, q)
	return err
}

func (f fake) State(ctx context.Context, r *StateRequest) (*StateResponse, error) {
	return give[StateResponse](f, ctx, "State", r)
}
func (f fake) Create(ctx context.Context, r *CreateTaskRequest) (*CreateTaskResponse, error) {
	return give[CreateTaskResponse](f, ctx, "Create", r)
}
func (f fake) Start(ctx context.Context, r *StartRequest) (*StartResponse, error) {
	return give[StartResponse](f, ctx, "Start", r)
}
func (f fake) Delete(ctx context.Context, r *DeleteRequest) (*DeleteResponse, error) {
	return give[DeleteResponse](f, ctx, "Delete", r)
}
func (f fake) Pids(ctx context.Context, r *PidsRequest) (*PidsResponse, error) {
	return give[PidsResponse](f, ctx, "Pids", r)
}
func (f fake) Wait(ctx context.Context, r *WaitRequest) (*WaitResponse, error) {
	return give[WaitResponse](f, ctx, "Wait", r)
}
func (f fake) Stats(ctx context.Context, r *StatsRequest) (*StatsResponse, error) {
	return give[StatsResponse](f, ctx, "Stats", r)
}
func (f fake) Connect(ctx context.Context, r *ConnectRequest) (*ConnectResponse, error) {
	return give[ConnectResponse](f, ctx, "Connect", r)
}
func (f fake) Pause(ctx context.Context, r *PauseRequest) error   { return f.none(ctx, "Pause", r) }
func (f fake) Resume(ctx context.Context, r *ResumeRequest) error { return f.none(ctx, "Resume", r) }
func (f fake) Checkpoint(ctx context.Context, r *CheckpointTaskRequest) error {
	return f.none(ctx, "Checkpoint", r)
}
func (f fake) Kill(ctx context.Context, r *KillRequest) error        { return f.none(ctx, "Kill", r) }
func (f fake) Exec(ctx context.Context, r *ExecProcessRequest) error { return f.none(ctx, "Exec", r) }
func (f fake) ResizePty(ctx context.Context, r *ResizePtyRequest) error {
	return f.none(ctx, "ResizePty", r)
}
func (f fake) CloseIO(ctx context.Context, r *CloseIORequest) error {
	return f.none(ctx, "CloseIO", r)
}
func (f fake) Update(ctx context.Context, r *UpdateTaskRequest) error {
	return f.none(ctx, "Update", r)
}
func (f fake) Shutdown(ctx context.Context, r *ShutdownRequest) error {
	return f.none(ctx, "Shutdown", r)
}

// serve serves s on a new socket until the test ends, and checks that Serve
// then returns without an error.
func serve(t *testing.T, s Server) (address string) {
	t.Helper()
	address = "unix://" + filepath.Join(t.TempDir(), "s")
	l, err := Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return address
}

func dial(t *testing.T, address string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// dialReal is the client that containerd generates, on the real ttrpc.
func dialReal(t *testing.T, address string) task.TTRPCTaskService {
	t.Helper()
	conn, err := net.Dial("unix", address[len("unix://"):])
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() { c.Close() })
	return task.NewTTRPCTaskClient(c)
}

// serveReal serves the generated service on the real ttrpc.
func serveReal(t *testing.T, s task.TTRPCTaskService) (address string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	task.RegisterTTRPCTaskService(srv, s)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return "unix://" + path
}

// realFake is fake with the generated types.
type realFake func(ctx context.Context, method string, q any) (any, error)

func giveReal[R any](f realFake, ctx context.Context, method string, q any) (*R, error) {
	r, err := f(ctx, method, q)
	if err != nil {
		return nil, err
	}
	if p, ok := r.(*R); ok {
		return p, nil
	}
	return new(R), nil
}

func (f realFake) State(ctx context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	return giveReal[task.StateResponse](f, ctx, "State", r)
}
func (f realFake) Create(ctx context.Context, r *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	return giveReal[task.CreateTaskResponse](f, ctx, "Create", r)
}
func (f realFake) Start(ctx context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	return giveReal[task.StartResponse](f, ctx, "Start", r)
}
func (f realFake) Delete(ctx context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	return giveReal[task.DeleteResponse](f, ctx, "Delete", r)
}
func (f realFake) Pids(ctx context.Context, r *task.PidsRequest) (*task.PidsResponse, error) {
	return giveReal[task.PidsResponse](f, ctx, "Pids", r)
}
func (f realFake) Pause(ctx context.Context, r *task.PauseRequest) (*emptypb.Empty, error) {
	return giveReal[emptypb.Empty](f, ctx, "Pause", r)
}
func (f realFake) Resume(ctx context.Context, r *task.ResumeRequest) (*emptypb.Empty, error) {
	return giveReal[emptypb.Empty](f, ctx, "Resume", r)
}
func (f realFake) Checkpoint(ctx context.Context, r *task.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return giveReal[emptypb.Empty](f, ctx, "Checkpoint", r)
}
func (f realFake) Kill(ctx context.Context, r *task.KillRequest) (*emptypb.Empty, error) {
	return giveReal[emptypb.Empty](f, ctx, "Kill", r)
}
func (f realFake) Exec(ctx context.Context, r *task.ExecProcessRequest) (*emptypb.Empty, error) {
	return giveReal[emptypb.Empty](f, ctx, "Exec", r)
}
func (f realFake) ResizePty(ctx context.Context, r *task.ResizePtyRequest) (*emptypb.Empty, error) {
	return giveReal[emptypb.Empty](f, ctx, "ResizePty", r)
}
func (f realFake) CloseIO(ctx context.Context, r *task.CloseIORequest) (*emptypb.Empty, error) {
	return giveReal[emptypb.Empty](f, ctx, "CloseIO", r)
}
func (f realFake) Update(ctx context.Context, r *task.UpdateTaskRequest) (*emptypb.Empty, error) {
	return giveReal[emptypb.Empty](f, ctx, "Update", r)
}
func (f realFake) Wait(ctx context.Context, r *task.WaitRequest) (*task.WaitResponse, error) {
	return giveReal[task.WaitResponse](f, ctx, "Wait", r)
}
func (f realFake) Stats(ctx context.Context, r *task.StatsRequest) (*task.StatsResponse, error) {
	return giveReal[task.StatsResponse](f, ctx, "Stats", r)
}
func (f realFake) Connect(ctx context.Context, r *task.ConnectRequest) (*task.ConnectResponse, error) {
	return giveReal[task.ConnectResponse](f, ctx, "Connect", r)
}
func (f realFake) Shutdown(ctx context.Context, r *task.ShutdownRequest) (*emptypb.Empty, error) {
	return giveReal[emptypb.Empty](f, ctx, "Shutdown", r)
}
