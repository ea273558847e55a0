// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/sandbox/v1"
	task2 "github.com/containerd/containerd/api/runtime/task/v2"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// full is a generated message of type P with all fields set.
func full(of reflect.Type) proto.Message {
	m := reflect.New(of.Elem()).Interface().(proto.Message)
	fill(m.ProtoReflect())
	return m
}

// sent is the message of ours that theirs is.
func sent(t *testing.T, theirs proto.Message) message {
	t.Helper()
	for _, p := range pairs {
		if p.theirs().ProtoReflect().Descriptor().Name() != theirs.ProtoReflect().Descriptor().Name() {
			continue
		}
		b, err := proto.Marshal(theirs)
		if err != nil {
			t.Fatal(err)
		}
		m := p.ours()
		if err := decode(b, m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	t.Fatalf("no message of ours is %T", theirs)
	return nil
}

// A generated service, as the services of both task API versions are.
type generated struct {
	name    string
	service reflect.Type
	client  func(*ttrpc.Client) any
}

var taskServices = map[int]generated{
	2: {"containerd.task.v2.Task", reflect.TypeFor[task2.TTRPCTaskService](), func(c *ttrpc.Client) any { return task2.NewTTRPCTaskClient(c) }},
	3: {"containerd.task.v3.Task", reflect.TypeFor[task.TTRPCTaskService](), func(c *ttrpc.Client) any { return task.NewTTRPCTaskClient(c) }},
}

const notServed = "UpdateSandbox"

var sandboxes = generated{"containerd.runtime.sandbox.v1.Sandbox", reflect.TypeFor[sandbox.TTRPCSandboxService](),
	func(c *ttrpc.Client) any { return sandbox.NewTTRPCSandboxClient(c) }}

// real says which services of the task API a real server is to have.
func real(versions ...int) map[string]reflect.Type {
	m := make(map[string]reflect.Type)
	for _, v := range versions {
		m[taskServices[v].name] = taskServices[v].service
	}
	return m
}

// methods calls fn with each method of the service and full messages.
func methods(t *testing.T, service reflect.Type, fn func(t *testing.T, name string, q, r proto.Message)) {
	for m := range service.Methods() {
		if m.Name == notServed {
			continue
		}
		t.Run(m.Name, func(t *testing.T) { fn(t, m.Name, full(m.Type.In(1)), full(m.Type.Out(0))) })
	}
}

// invokeMethod calls a method of a client by name.
func invokeMethod(ctx context.Context, client any, name string, q any) (r any, err error) {
	out := reflect.ValueOf(client).MethodByName(name).Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(q)})
	err, _ = out[len(out)-1].Interface().(error)
	if len(out) == 2 {
		r = out[0].Interface()
	}
	return r, err
}

func TestRealClientOurServer(t *testing.T) {
	var got message
	var give message
	var method string
	f := fake(func(ctx context.Context, m string, q message) (message, error) {
		method, got = m, q
		return give, nil
	})
	// All over one connection, as one of containerd's.
	conn := dialReal(t, serveBoth(t, f, sandboxFake(f)))
	for _, of := range []generated{taskServices[2], taskServices[3], sandboxes} {
		client := of.client(conn)
		methods(t, of.service, func(t *testing.T, name string, q, r proto.Message) {
			give = sent(t, r)
			back, err := invokeMethod(t.Context(), client, name, q)
			if err != nil {
				t.Fatal(err)
			}
			if method != name || !reflect.DeepEqual(got, sent(t, q)) {
				t.Errorf("server got %s %+v", method, got)
			}
			if !proto.Equal(back.(proto.Message), r) {
				t.Errorf("client got %v, want %v", back, r)
			}
		})
	}
}

func TestOurClientRealServer(t *testing.T) {
	for version, of := range taskServices {
		t.Run(of.name, func(t *testing.T) { ourClientRealServer(t, version, of) })
	}
	t.Run(sandboxes.name, func(t *testing.T) { ourClientRealServer(t, 3, sandboxes) })
}

func ourClientRealServer(t *testing.T, version int, of generated) {
	var got, give any
	var method string
	var namespace []string
	client := dial(t, serveReal(t, realFake(func(ctx context.Context, m string, q any) (any, error) {
		md, _ := ttrpc.GetMetadata(ctx)
		method, got, namespace = m, q, md["containerd-namespace-ttrpc"]
		return give, nil
	}), map[string]reflect.Type{of.name: of.service}))
	client.Namespace, client.Version = "k8s.io", version
	methods(t, of.service, func(t *testing.T, name string, q, r proto.Message) {
		give = r
		back, err := invokeMethod(t.Context(), client, name, sent(t, q))
		if err != nil {
			t.Fatal(err)
		}
		if method != name || !proto.Equal(got.(proto.Message), q) {
			t.Errorf("server got %s %v", method, got)
		}
		if !reflect.DeepEqual(namespace, []string{"k8s.io"}) {
			t.Errorf("namespace is %q", namespace)
		}
		if back != nil && !reflect.DeepEqual(back, any(sent(t, r))) {
			t.Errorf("client got %+v, want %v", back, r)
		}
	})
	client.Namespace, give = "", nil
	if of.name == sandboxes.name {
		return
	}
	if _, err := client.State(t.Context(), &StateRequest{}); err != nil || namespace != nil {
		t.Errorf("without a namespace: %q, %v", namespace, err)
	}
}

// TestWithoutSandboxes: what is not served is not implemented, and that says
// nothing of the task service.
func TestWithoutSandboxes(t *testing.T) {
	f := fake(func(context.Context, string, message) (message, error) { return nil, nil })
	for name, c := range map[string]*Client{
		"ours": dial(t, serve(t, f)),
		"real": dial(t, serveReal(t, func(context.Context, string, any) (any, error) { return nil, nil }, real(3))),
	} {
		if err := c.PingSandbox(t.Context(), &PingRequest{}); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v", name, err)
		}
		if r, err := c.WaitSandbox(t.Context(), &WaitSandboxRequest{}); r != nil || !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v, %v", name, r, err)
		}
		if err := c.Pause(t.Context(), &PauseRequest{}); err != nil || c.old.Load() {
			t.Errorf("%s: %v", name, err)
		}
	}
	theirs := sandbox.NewTTRPCSandboxClient(dialReal(t, serveBoth(t, f, sandboxFake(f))))
	_, err := theirs.UpdateSandbox(t.Context(), &sandbox.UpdateSandboxRequest{})
	if err := errgrpc.ToNative(err); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("update: %v", err)
	}
}

// errorKinds are the kinds with the codes that containerd gives them.
var errorKinds = map[codes.Code][]error{
	codes.Canceled:           {context.Canceled},
	codes.Unknown:            {errdefs.ErrUnknown, io.EOF},
	codes.InvalidArgument:    {errdefs.ErrInvalidArgument},
	codes.DeadlineExceeded:   {context.DeadlineExceeded},
	codes.NotFound:           {errdefs.ErrNotFound},
	codes.AlreadyExists:      {errdefs.ErrAlreadyExists},
	codes.PermissionDenied:   {errdefs.ErrPermissionDenied},
	codes.ResourceExhausted:  {errdefs.ErrResourceExhausted},
	codes.FailedPrecondition: {errdefs.ErrFailedPrecondition, errdefs.ErrConflict, errdefs.ErrNotModified},
	codes.Aborted:            {errdefs.ErrAborted},
	codes.OutOfRange:         {errdefs.ErrOutOfRange},
	codes.Unimplemented:      {errdefs.ErrNotImplemented},
	codes.Internal:           {errdefs.ErrInternal},
	codes.Unavailable:        {errdefs.ErrUnavailable},
	codes.DataLoss:           {errdefs.ErrDataLoss},
	codes.Unauthenticated:    {errdefs.ErrUnauthenticated},
}

func TestErrors(t *testing.T) {
	var failure error
	address := serve(t, fake(func(context.Context, string, message) (message, error) { return nil, failure }))
	realAddress := serveReal(t, realFake(func(context.Context, string, any) (any, error) {
		return nil, errgrpc.ToGRPC(failure)
	}), real(3))
	ours, theirs, across := dial(t, address), task.NewTTRPCTaskClient(dialReal(t, address)), dial(t, realAddress)
	for code, kinds := range errorKinds {
		for _, kind := range kinds {
			failure = fmt.Errorf("kill process %q: %w", "x", kind)
			want := kind
			if kind == io.EOF {
				want = errdefs.ErrUnknown
			}
			for name, c := range map[string]*Client{"ours": ours, "real server": across} {
				if kind == io.EOF && c == across {
					continue // containerd does not convert it
				}
				err := c.Kill(t.Context(), &KillRequest{})
				if !errors.Is(err, want) || err.Error() != failure.Error() {
					t.Errorf("%s: %v arrives as %v, %v", name, failure, err, errdefs.Resolve(err))
				}
				if r, err := c.Wait(t.Context(), &WaitRequest{}); r != nil || !errors.Is(err, want) {
					t.Errorf("%s: wait: %v, %v", name, r, err)
				}
			}
			_, err := theirs.Kill(t.Context(), &task.KillRequest{})
			if st, _ := grpcstatus.FromError(err); st.Code() != code || st.Message() != failure.Error() {
				t.Errorf("real client: %v arrives as %v", failure, err)
			}
			if err := errgrpc.ToNative(err); !errors.Is(err, want) {
				t.Errorf("containerd takes %v for %v", failure, errdefs.Resolve(err))
			}
		}
	}
}

func TestStatusOfStrangeCodes(t *testing.T) {
	for _, code := range []int32{-1, 17, 1 << 30} {
		err := status{code: code, text: "odd"}.err()
		if !errors.Is(err, errdefs.ErrUnknown) || err.Error() != "odd" {
			t.Errorf("code %d is %v", code, err)
		}
	}
	if err := (status{code: 5}).err(); err.Error() != "not found" {
		t.Errorf("empty text is %q", err)
	}
	if s := statusOf(errors.New("a\xffb")); s.text != "a\uFFFDb" {
		t.Errorf("text is %q", s.text)
	}
}

func TestUnknownMethodAndService(t *testing.T) {
	address := serve(t, fake(nil))
	c := dial(t, address)
	if err := c.call(t.Context(), "Frobnicate", new(empty), new(empty)); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("method: %v", err)
	}
	q := request{service: "containerd.task.v9.Task", method: "Start"}
	a := talk(t, address, kindRequest, 1, 0, encode(nil, &q))
	if err := a.status.err(); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("service: %v", err)
	}
}

// TestOldServer: a server that has the task service of version 2 alone is
// found out by the first call, whose request is not lost.
func TestOldServer(t *testing.T) {
	var calls []string
	f := realFake(func(_ context.Context, m string, q any) (any, error) {
		calls = append(calls, m)
		if q, ok := q.(*task2.KillRequest); ok {
			return nil, errgrpc.ToGRPC(fmt.Errorf("process %q: %w", q.ID, errdefs.ErrNotFound))
		}
		return nil, nil
	})
	for _, version := range []int{0, 3} {
		calls = nil
		c := dial(t, serveReal(t, f, real(2)))
		c.Version = version
		if err := c.Kill(t.Context(), &KillRequest{ID: "x"}); !errors.Is(err, errdefs.ErrNotFound) || err.Error() != `process "x": not found` {
			t.Errorf("kill: %v", err)
		}
		if err := c.Pause(t.Context(), &PauseRequest{}); err != nil || !c.old.Load() {
			t.Errorf("pause: %v", err)
		}
		if !reflect.DeepEqual(calls, []string{"Kill", "Pause"}) {
			t.Errorf("calls are %q", calls)
		}
	}
	// A server of version 3 stays one, whatever it does not implement, also where
	// it names the service in that (Rust's ttrpc does).
	c := dial(t, serve(t, fake(func(context.Context, string, message) (message, error) {
		return nil, fmt.Errorf("/%s/Pause does not exist: %w", taskService, errdefs.ErrInvalidArgument)
	})))
	if err := c.Pause(t.Context(), &PauseRequest{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("method that does not exist: %v", err)
	}
	none := dial(t, serveReal(t, f, nil))
	if err := none.Pause(t.Context(), &PauseRequest{}); !errors.Is(err, errdefs.ErrNotImplemented) || none.old.Load() {
		t.Errorf("no task service: %v", err)
	}
	none.Version = 2
	if err := none.Pause(t.Context(), &PauseRequest{}); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("no task service of version 2: %v", err)
	}
}

func TestTimeoutReachesRealServer(t *testing.T) {
	var left time.Duration
	c := dial(t, serveReal(t, realFake(func(ctx context.Context, m string, q any) (any, error) {
		until, _ := ctx.Deadline()
		left = time.Until(until)
		return nil, nil
	}), real(3)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if err := c.Pause(ctx, &PauseRequest{}); err != nil {
		t.Fatal(err)
	}
	if left <= 0 || left > time.Hour {
		t.Errorf("server has %v", left)
	}
}
