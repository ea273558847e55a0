// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/state"
)

// maxMessage is containerd's bound on a message, in bytes, both ways.
const maxMessage = 16 << 20

// maxStreams bounds the calls of one connection that are under way.
const maxStreams = 1000

// Options are what a Server needs.
type Options struct {
	Dir     *state.Dir
	Version string // of ctrd
	Log     *slog.Logger
}

// Server serves the API on any number of listeners.
type Server struct {
	d       *state.Dir
	version string
	log     *slog.Logger
	grpc    *grpc.Server
	busy    busy

	collector collector
	streams   streams
}

// New makes a server of all services.
func New(o Options) *Server {
	s := &Server{d: o.Dir, version: o.Version, log: o.Log}
	s.busy.since = time.Now()
	s.collector.d, s.collector.log = o.Dir, o.Log
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream), grpc.StatsHandler(&s.busy),
	)
	versionapi.RegisterVersionServer(s.grpc, versionService{s: s})
	introspectionapi.RegisterIntrospectionServer(s.grpc, introspectionService{s: s})
	leasesapi.RegisterLeasesServer(s.grpc, leaseService{s: s})
	imagesapi.RegisterImagesServer(s.grpc, imageService{s: s})
	containersapi.RegisterContainersServer(s.grpc, containerService{s: s})
	contentapi.RegisterContentServer(s.grpc, contentService{s: s})
	diffapi.RegisterDiffServer(s.grpc, diffService{s: s})
	eventsapi.RegisterEventsServer(s.grpc, eventService{s: s})
	streamingapi.RegisterStreamingServer(s.grpc, streamingService{s: s})
	transferapi.RegisterTransferServer(s.grpc, transferService{s: s})
	alive := health.NewServer()
	healthapi.RegisterHealthServer(s.grpc, alive)
	return s
}

// Serve answers the connections of l until Stop, and closes it.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Stop takes no new connections and calls, and lets those that are under way end until ctx does; then it breaks them.
func (s *Server) Stop(ctx context.Context) {
	stopped := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(stopped) }()
	select {
	case <-stopped:
	case <-ctx.Done():
		s.grpc.Stop()
		<-stopped
	}
	s.collector.wait(ctx)
}

// Idle tells for how long there has been no connection; 0 while there is one.
func (s *Server) Idle() time.Duration { return s.busy.idle() }

// busy counts connections.
type busy struct {
	mu    sync.Mutex
	conns int
	since time.Time // when the last one ended
}

func (b *busy) idle() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns > 0 {
		return 0
	}
	return time.Since(b.since)
}

func (b *busy) count(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns += n
	b.since = time.Now()
}

// HandleConn implements stats.Handler.
func (b *busy) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		b.count(1)
	case *stats.ConnEnd:
		b.count(-1)
	}
}

// HandleRPC implements stats.Handler.
func (b *busy) HandleRPC(context.Context, stats.RPCStats) {}

// TagConn implements stats.Handler.
func (b *busy) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// TagRPC implements stats.Handler.
func (b *busy) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
	began := time.Now()
	defer func() { err = s.end(ctx, info.FullMethod, began, recover(), err) }()
	return handle(ctx, req)
}

func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	began := time.Now()
	defer func() { err = s.end(stream.Context(), info.FullMethod, began, recover(), err) }()
	return handle(srv, stream)
}

// end makes of how a call ended the error that its client is told, and logs it. A panic ends the call alone.
func (s *Server) end(ctx context.Context, method string, began time.Time, panicked any, err error) error {
	if panicked != nil {
		s.log.Error("a call failed", "method", method, "panic", panicked, "stack", string(debug.Stack()))
		err = fmt.Errorf("%s: a fault of ctrd: %v: %w", method, panicked, errdefs.ErrInternal)
	}
	s.log.Debug("call", "method", method, "namespace", first(ctx, namespaceKey), "peer", peerOf(ctx), "took", time.Since(began), "error", err)
	return errgrpc.ToGRPC(err)
}

// The keys of metadata, as containerd's clients set them.
const (
	namespaceKey = "containerd-namespace"
	leaseKey     = "containerd-lease"
)

// first gives the first value of a key, which is the newest.
func first(ctx context.Context, key string) string {
	if v := metadata.ValueFromIncomingContext(ctx, key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// namespace gives the namespace of a call. None, and one that is no identifier, is errdefs.ErrFailedPrecondition or
// errdefs.ErrInvalidArgument, as containerd has it.
func namespace(ctx context.Context) (string, error) {
	ns := first(ctx, namespaceKey)
	if ns == "" {
		return "", fmt.Errorf("namespace is required: %w", errdefs.ErrFailedPrecondition)
	}
	if err := container.CheckID(ns); err != nil {
		return "", fmt.Errorf("namespace: %w", err)
	}
	return ns, nil
}

// lease gives the id of the lease that is to hold what a call makes, or nothing.
func lease(ctx context.Context) string { return first(ctx, leaseKey) }
