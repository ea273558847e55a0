// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// shared opens a listener of the same socket once more, as a server gets it from systemd.
func shared(t testing.TB, f *os.File) *net.UnixListener {
	t.Helper()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return l.(*net.UnixListener)
}

// keptSocket listens on a socket that one server after another can have, see shared.
func keptSocket(t *testing.T) (kept *os.File, path string) {
	t.Helper()
	first := listen(t)
	kept, err := first.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kept.Close() })
	path = first.Addr().String()
	first.SetUnlinkOnClose(false)
	first.Close()
	return kept, path
}

// Servers that end as soon as nobody calls follow each other on one socket, while clients connect: no call is lost.
func TestHandOver(t *testing.T) {
	kept, path := keptSocket(t)
	d := openDir(t)

	const clients, servers = 8, 50
	var calls, left atomic.Int32
	left.Store(clients)
	var all sync.WaitGroup
	over := make(chan struct{})
	for range clients {
		all.Go(func() {
			defer left.Add(-1)
			for {
				c := dial(t, path)
				if err := ask(in(t, "default"), c); err != nil {
					t.Errorf("a call is lost: %v", err)
				}
				c.Close()
				calls.Add(1)
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	one := func() {
		s := New(Options{Dir: d, Log: slog.New(slog.DiscardHandler)})
		result := make(chan error, 1)
		l := shared(t, kept)
		go func() { result <- s.Serve(l) }()
		before := calls.Load()
		eventually(t, "calls", func() bool { return calls.Load() > before+clients || left.Load() == 0 })
		s.Stop(t.Context())
		if err := <-result; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	for range servers {
		one()
	}
	close(over)
	for left.Load() > 0 {
		one()
	}
	all.Wait()
}

// A call that comes when a server has just found that it is idle is made with the next one, also one that lasts; its client notices nothing. A
// server that is not idle begins calls.
func TestRetire(t *testing.T) {
	kept, path := keptSocket(t)
	d := openDir(t)
	serve := func() (s *Server, ended <-chan error) {
		s = New(Options{Dir: d, Log: slog.New(slog.DiscardHandler)})
		result, l := make(chan error, 1), shared(t, kept)
		go func() { result <- s.Serve(l) }()
		return s, result
	}
	s, ended := serve()
	ctx := in(t, "default")
	c := dial(t, path)
	subscribe := func() eventsapi.Events_SubscribeClient {
		t.Helper()
		events, err := eventsapi.NewEventsClient(c).Subscribe(ctx, &eventsapi.SubscribeRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return events
	}
	short, cancel := context.WithCancel(ctx)
	events, err := eventsapi.NewEventsClient(c).Subscribe(short, &eventsapi.SubscribeRequest{})
	if err == nil {
		_, err = events.Header()
	}
	if err != nil || Retire(0, s) || Retire(0, New(Options{Dir: d}), s) {
		t.Fatalf("subscribed: %v, or a server retires that has a call", err)
	}
	cancel()
	eventually(t, "idle", func() bool { return s.Idle() > 0 })
	if Retire(time.Hour, s) {
		t.Fatal("it retires too early")
	}
	for range 20 {
		eventually(t, "idle", func() bool { return Retire(1, s) })
		if err := ask(ctx, dial(t, path)); err != nil { // which may have been refused already
			t.Errorf("the first call of a connection is lost: %v", err)
		}
		events := subscribe()
		asked := make(chan error, 1)
		go func() { asked <- ask(ctx, c) }()
		time.Sleep(10 * time.Millisecond) // so that the calls come before the server says that it ends
		s.Stop(ctx)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		s, ended = serve()
		if _, err := events.Header(); err != nil {
			t.Errorf("a subscription is lost: %v", err)
		}
		if _, err := eventsapi.NewEventsClient(c).Publish(ctx, &eventsapi.PublishRequest{Topic: "/one", Event: &anypb.Any{TypeUrl: "one"}}); err != nil {
			t.Errorf("a call is lost: %v", err)
		}
		if m, err := events.Recv(); err != nil || m.Topic != "/one" {
			t.Fatalf("a subscription is lost: %v, %v", m, err)
		}
		if err := <-asked; err != nil {
			t.Errorf("a call is lost: %v", err)
		}
		s.Stop(ctx) // ends the subscription
		if _, err := events.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("subscription: %v", err)
		}
		<-ended
		s, ended = serve()
		if err := ask(ctx, c); err != nil {
			t.Errorf("a call is lost: %v", err)
		}
	}
	s.Stop(ctx)
	<-ended
}

// What lasts ends at once when the server stops; what is under way ends as it would have.
func TestStop(t *testing.T) {
	s := serve(t, Options{})
	c := dial(t, s.path)
	ctx := in(t, "default")

	events, err := eventsapi.NewEventsClient(c).Subscribe(ctx, &eventsapi.SubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	waits, err := streamingapi.NewStreamingClient(c).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	init, err := typeurl.MarshalAnyToProto(&streamingapi.StreamInit{ID: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if err := waits.Send(init); err != nil {
		t.Fatal(err)
	}
	if _, err := waits.Recv(); err != nil {
		t.Fatal(err)
	}
	data := []byte("what is written while the server stops")
	dgst := digest.FromBytes(data)
	write, err := contentapi.NewContentClient(c).Write(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := write.Send(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Ref: "one", Data: data, Total: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	if _, err := write.Recv(); err != nil {
		t.Fatal(err)
	}
	if s.Idle() != 0 {
		t.Error("the server is idle while streams are open")
	}

	stopped := make(chan struct{})
	go func() { s.Stop(ctx); close(stopped) }()
	if _, err := events.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("subscription: %v", err)
	}
	if _, err := waits.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("stream of no transfer: %v", err)
	}
	select {
	case <-stopped:
		t.Error("the server has not waited for a call")
	default:
	}
	if err := write.Send(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_COMMIT, Ref: "one", Offset: int64(len(data)), Total: int64(len(data)), Expected: dgst.String()}); err != nil {
		t.Fatal(err)
	}
	if m, err := write.Recv(); err != nil || m.Digest != dgst.String() {
		t.Errorf("commit: %v, %v", m, err)
	}
	write.CloseSend()
	if _, err := write.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end of the writer: %v", err)
	}
	select {
	case <-stopped:
	case <-ctx.Done():
		t.Error("the server does not stop")
	}
}

// A stop that is bounded ends what does not end by itself.
func TestStopBounded(t *testing.T) {
	s := serve(t, Options{})
	write, err := contentapi.NewContentClient(dial(t, s.path)).Write(in(t, "default"))
	if err != nil {
		t.Fatal(err)
	}
	if err := write.Send(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_STAT, Ref: "one"}); err != nil {
		t.Fatal(err)
	}
	if _, err := write.Recv(); err != nil {
		t.Fatal(err)
	}
	raw(t, s.path) // and one that says nothing
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s.Stop(ctx)
	if _, err := write.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("writer: %v", err)
	}
}

// Nor does one that minds no context keep a server that stops.
func TestStopDeaf(t *testing.T) {
	begun, done := make(chan struct{}), make(chan struct{})
	s := serve(t, Options{Also: func(r grpc.ServiceRegistrar) {
		r.RegisterService(&grpc.ServiceDesc{ServiceName: "test.Deaf", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
			StreamName: "Call", ServerStreams: true,
			Handler: func(any, grpc.ServerStream) error { close(begun); <-done; return nil },
		}}}, nil)
	}})
	defer close(done)
	call, err := dial(t, s.path).NewStream(in(t, "default"), &grpc.StreamDesc{ServerStreams: true}, "/test.Deaf/Call")
	if err == nil {
		err = errors.Join(call.SendMsg(&emptypb.Empty{}), call.CloseSend())
	}
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	stopped := make(chan struct{})
	go func() { s.Stop(ctx); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(brokenFor + patience/2):
		t.Error("the server does not stop")
	}
}

func TestIdle(t *testing.T) {
	s := serve(t, Options{Preface: 50 * time.Millisecond})
	c := dial(t, s.path)
	if err := ask(in(t, "default"), c); err != nil {
		t.Fatal(err)
	}
	eventually(t, "idle with a connection that has no call", func() bool { return s.Idle() > 0 })

	silent, half := raw(t, s.path), raw(t, s.path)
	if _, err := half.Write([]byte("PRI * HTTP/2.0\r\n")); err != nil {
		t.Fatal(err)
	}
	closed(t, silent)
	closed(t, half)
	eventually(t, "idle after connections that never spoke", func() bool { return s.Idle() > 0 })

	patient := serve(t, Options{})
	raw(t, patient.path)
	eventually(t, "busy while a connection begins", func() bool { return patient.Idle() == 0 })
}
