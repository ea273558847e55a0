// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// lasting are the calls that end when something happens, or never. A server that stops does not wait for them.
var lasting = map[string]bool{
	"/containerd.services.events.v1.Events/Subscribe": true,
	"/containerd.services.tasks.v1.Tasks/Wait":        true,
	"/containerd.services.sandbox.v1.Controller/Wait": true,
	"/runtime.v1.RuntimeService/GetContainerEvents":   true,
	"/grpc.health.v1.Health/Watch":                    true,
}

// errStopping is why a lasting call was ended. Its client does well to ask again, on a new connection.
var errStopping = fmt.Errorf("this ctrd ends; connect again: %w", errdefs.ErrUnavailable)

// calls counts those whose request has come.
type calls struct {
	mu     sync.Mutex
	active int
	since  time.Time // when the last one ended

	ending context.Context // done when the server stops
	end    context.CancelFunc
}

func (c *calls) init() {
	c.since = time.Now()
	c.ending, c.end = context.WithCancel(context.Background())
}

func (c *calls) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active += n
	c.since = time.Now()
}

// Busy says that something goes on that is no call, until done is called: the server is not idle meanwhile.
func (s *Server) Busy() (done func()) {
	s.calls.count(1)
	return sync.OnceFunc(func() { s.calls.count(-1) })
}

// quiet tells since when there is no call, and whether there is none.
func (c *calls) quiet() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since, c.active == 0
}

// begin counts a call, and gives the context that it has. release is to be called when it has ended.
func (c *calls) begin(ctx context.Context, method string) (_ context.Context, release func()) {
	c.count(1)
	if !lasting[method] {
		return ctx, func() { c.count(-1) }
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ending, func() { cancel(errStopping) })
	return ctx, func() { stop(); cancel(nil); c.count(-1) }
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
	ctx, release := s.calls.begin(ctx, info.FullMethod)
	defer release()
	began, ended := time.Now(), s.metrics.begin("unary", info.FullMethod)
	defer func() {
		err = s.end(ctx, info.FullMethod, req, began, recover(), err)
		ended(status.Code(err))
	}()
	return handle(ctx, req)
}

func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	ctx, release := s.calls.begin(stream.Context(), info.FullMethod)
	defer release()
	began, ended := time.Now(), s.metrics.begin(kindOfStream(info), info.FullMethod)
	defer func() {
		err = s.end(ctx, info.FullMethod, nil, began, recover(), err)
		ended(status.Code(err))
	}()
	return handle(srv, withContext{stream, ctx})
}

// kindOfStream is how metrics call the kind of a stream.
func kindOfStream(info *grpc.StreamServerInfo) string {
	switch {
	case info.IsClientStream && info.IsServerStream:
		return "bidi_stream"
	case info.IsClientStream:
		return "client_stream"
	}
	return "server_stream"
}

// withContext is a stream whose context also ends with the server.
type withContext struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s withContext) Context() context.Context { return s.ctx }

// subject names what a request is about, for the log: the id of a container or a sandbox, the key of a snapshot, or a name; empty where it has none.
func subject(req any) string {
	switch r := req.(type) {
	case interface{ GetContainerID() string }:
		return r.GetContainerID()
	case interface{ GetSandboxID() string }:
		return r.GetSandboxID()
	case interface {
		GetContainer() *containersapi.Container
	}:
		return r.GetContainer().GetID()
	case interface{ GetKey() string }:
		return r.GetKey()
	case interface{ GetID() string }:
		return r.GetID()
	case interface{ GetName() string }:
		return r.GetName()
	}
	return ""
}

// end makes of how a call ended the error that its client is told, and logs it. A panic ends the call alone.
func (s *Server) end(ctx context.Context, method string, req any, began time.Time, panicked any, err error) error {
	if panicked != nil {
		s.log.Error("a call failed", "method", method, "panic", panicked, "stack", string(debug.Stack()))
		err = fmt.Errorf("%s: a fault of ctrd: %v: %w", method, panicked, errdefs.ErrInternal)
	}
	if err != nil && errors.Is(context.Cause(ctx), errStopping) {
		err = errStopping
	}
	if s.log.Enabled(ctx, slog.LevelDebug) {
		s.log.Debug("call", "method", method, "namespace", first(ctx, namespaceKey), "id", subject(req), "peer", peerOf(ctx), "took", time.Since(began), "error", err)
	}
	return errgrpc.ToGRPC(err)
}
