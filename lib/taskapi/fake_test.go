// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"net"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/containerd/ttrpc"
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

// sandboxFake is fake for the sandbox service.
type sandboxFake fake

func (f sandboxFake) CreateSandbox(ctx context.Context, r *CreateSandboxRequest) error {
	return fake(f).none(ctx, "CreateSandbox", r)
}
func (f sandboxFake) StartSandbox(ctx context.Context, r *StartSandboxRequest) (*StartSandboxResponse, error) {
	return give[StartSandboxResponse](fake(f), ctx, "StartSandbox", r)
}
func (f sandboxFake) Platform(ctx context.Context, r *PlatformRequest) (*PlatformResponse, error) {
	return give[PlatformResponse](fake(f), ctx, "Platform", r)
}
func (f sandboxFake) StopSandbox(ctx context.Context, r *StopSandboxRequest) error {
	return fake(f).none(ctx, "StopSandbox", r)
}
func (f sandboxFake) WaitSandbox(ctx context.Context, r *WaitSandboxRequest) (*WaitSandboxResponse, error) {
	return give[WaitSandboxResponse](fake(f), ctx, "WaitSandbox", r)
}
func (f sandboxFake) SandboxStatus(ctx context.Context, r *SandboxStatusRequest) (*SandboxStatusResponse, error) {
	return give[SandboxStatusResponse](fake(f), ctx, "SandboxStatus", r)
}
func (f sandboxFake) PingSandbox(ctx context.Context, r *PingRequest) error {
	return fake(f).none(ctx, "PingSandbox", r)
}
func (f sandboxFake) ShutdownSandbox(ctx context.Context, r *ShutdownSandboxRequest) error {
	return fake(f).none(ctx, "ShutdownSandbox", r)
}
func (f sandboxFake) SandboxMetrics(ctx context.Context, r *SandboxMetricsRequest) (*SandboxMetricsResponse, error) {
	return give[SandboxMetricsResponse](fake(f), ctx, "SandboxMetrics", r)
}

// serve serves s on a new socket until the test ends, and checks that Serve
// then returns without an error.
func serve(t *testing.T, s Server) (address string) {
	t.Helper()
	return serveBoth(t, s, nil)
}

// serveBoth is serve with the sandbox service.
func serveBoth(t *testing.T, s Server, sandbox SandboxServer) (address string) {
	t.Helper()
	address = "unix://" + filepath.Join(t.TempDir(), "s")
	l, err := Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, s, sandbox) }()
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

// dialReal is a client of the real ttrpc, for a generated one.
func dialReal(t *testing.T, address string) *ttrpc.Client {
	t.Helper()
	conn, err := net.Dial("unix", address[len("unix://"):])
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() { c.Close() })
	return c
}

// realFake is fake with the generated types.
type realFake func(ctx context.Context, method string, q any) (any, error)

// register serves the methods of a generated service by f.
func (f realFake) register(s *ttrpc.Server, name string, service reflect.Type) {
	methods := make(map[string]ttrpc.Method)
	for m := range service.Methods() {
		methods[m.Name] = func(ctx context.Context, unmarshal func(any) error) (any, error) {
			q := reflect.New(m.Type.In(1).Elem()).Interface()
			if err := unmarshal(q); err != nil {
				return nil, err
			}
			r, err := f(ctx, m.Name, q)
			if r == nil {
				r = reflect.New(m.Type.Out(0).Elem()).Interface()
			}
			return r, err
		}
	}
	s.RegisterService(name, &ttrpc.ServiceDesc{Methods: methods})
}

// serveReal serves generated services, by name, on the real ttrpc.
func serveReal(t *testing.T, f realFake, services map[string]reflect.Type) (address string) {
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
	for name, service := range services {
		f.register(srv, name, service)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return "unix://" + path
}
