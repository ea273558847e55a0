// SPDX-License-Identifier: Apache-2.0

package native

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	mountsapi "github.com/containerd/containerd/api/services/mounts/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/state"
)

// Bounds on what a client may ask of the server's memory.
const (
	maxMessage  = 16 << 20  // bytes of a message, both ways, as containerd has it
	maxStreams  = 1000      // calls of one connection that are under way
	maxHeader   = 64 << 10  // bytes of the metadata of a call
	flowWindow  = 64 << 10  // bytes of a call that lie unread, beyond a message that is awaited
	connWindow  = 256 << 10 // bytes of a connection that lie unread
	readBuffer  = 8 << 10   // bytes, of a connection
	writeBuffer = 32 << 10  // bytes, of a connection while it is written to
)

// workers is how many goroutines stay for the next call, with the stack that a call needs: to grow a new one costs as much as many a call.
const workers = 8

const (
	// prefaceFor is how long a connection may take to begin to speak HTTP/2.
	prefaceFor = 10 * time.Second
	// newcomersFor is how long a server that stops waits for connections that have not begun.
	newcomersFor = 2 * time.Second
	// brokenFor is how long a server that stops waits for calls that it has broken.
	brokenFor = 3 * time.Second
)

// Options are what a Server needs.
type Options struct {
	Dir     *state.Dir
	Version string // of ctrd
	Log     *slog.Logger
	// Config gives the configuration that is in force, which changes when it is reloaded; nil: the defaults.
	Config func() *config.Config
	// Metrics, when set, count the calls. Several servers can share them.
	Metrics *Metrics
	// Also, when set, adds further services, whose errors are told by their errdefs kind as those of containerd's API are.
	Also func(grpc.ServiceRegistrar)

	// Preface is how long a connection may take to begin to speak HTTP/2; 0 is 10 seconds.
	Preface time.Duration
}

// Server serves the API on any number of listeners.
type Server struct {
	d       *state.Dir
	version string
	log     *slog.Logger
	config  func() *config.Config
	metrics *Metrics
	grpc    *grpc.Server
	hall    hall
	calls   calls

	collector collector
	streams   streams
	published published
	listed    listed
	shims     *shimLogs // nil: of a server that serves no tasks
	follow    sync.Once

	mu    sync.Mutex
	doors []*door
}

// New makes a server of all services of containerd's API.
func New(o Options) *Server {
	s := Bare(o)
	versionapi.RegisterVersionServer(s.grpc, versionService{s: s})
	introspectionapi.RegisterIntrospectionServer(s.grpc, introspectionService{s: s})
	mountsapi.RegisterMountsServer(s.grpc, mountService{s: s})
	namespacesapi.RegisterNamespacesServer(s.grpc, namespaceService{s: s})
	leasesapi.RegisterLeasesServer(s.grpc, leaseService{s: s})
	tasksapi.RegisterTasksServer(s.grpc, taskService{s: s})
	imagesapi.RegisterImagesServer(s.grpc, imageService{s: s})
	containersapi.RegisterContainersServer(s.grpc, containerService{s: s})
	contentapi.RegisterContentServer(s.grpc, contentService{s: s})
	diffapi.RegisterDiffServer(s.grpc, diffService{s: s})
	eventsapi.RegisterEventsServer(s.grpc, eventService{s: s})
	snapshotsapi.RegisterSnapshotsServer(s.grpc, snapshotService{s: s})
	sandboxapi.RegisterStoreServer(s.grpc, sandboxStore{s: s})
	sandboxapi.RegisterControllerServer(s.grpc, sandboxController{s: s})
	streamingapi.RegisterStreamingServer(s.grpc, streamingService{s: s})
	transferapi.RegisterTransferServer(s.grpc, transferService{s: s})
	s.shims = &shimLogs{d: s.d, log: s.log}
	return s
}

// Bare makes a server of those services alone that Options.Also adds, and of gRPC's health service.
func Bare(o Options) *Server {
	s := &Server{d: o.Dir, version: o.Version, log: o.Log, config: o.Config, metrics: o.Metrics}
	if s.config == nil {
		s.config = config.Default
	}
	s.hall.init(o.Log)
	s.calls.init()
	s.collector.d, s.collector.log = o.Dir, o.Log
	s.collector.after = func() time.Duration { return time.Duration(s.config().GC.ScheduleDelay) }
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(maxHeader),
		grpc.StaticStreamWindowSize(flowWindow), grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(readBuffer), grpc.WriteBufferSize(writeBuffer),
		grpc.NumStreamWorkers(workers),
		grpc.ConnectionTimeout(cmp.Or(o.Preface, prefaceFor)),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream), grpc.StatsHandler(accounts{}),
	)
	if o.Also != nil {
		o.Also(s.grpc)
	}
	alive := health.NewServer()
	healthapi.RegisterHealthServer(s.grpc, alive)
	return s
}

// Serve answers the connections of l until Stop, and closes it. It closes a connection of a peer that is not root, not the
// server's own user and not in the group that owns the socket's file and may write to it.
func (s *Server) Serve(l *net.UnixListener) error {
	s.follow.Do(s.followShims)
	s.d.KeepOpen(true)
	d := s.open(l)
	d.http2 = true
	defer d.end()
	if err := s.grpc.Serve(d); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// followShims has the server tell what shims write to their logs, if it serves tasks.
func (s *Server) followShims() {
	if s.shims == nil {
		return
	}
	if err := s.shims.start(); err != nil {
		s.log.Warn("what shims write to their logs is not told here", "error", err)
	}
}

// open makes a door of a listener, which shut closes.
func (s *Server) open(l *net.UnixListener) *door {
	d := openDoor(l, &s.hall, s.log)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doors = append(s.doors, d)
	return d
}

// shut lets nobody in any more, and waits for the last who got in.
func (s *Server) shut() {
	s.mu.Lock()
	doors := s.doors
	s.mu.Unlock()
	for _, d := range doors {
		d.close()
	}
	for _, d := range doors {
		<-d.last
	}
}

// Stop takes no new connections and calls, ends those that last as long as their client likes with codes.Unavailable, and
// lets the others end until ctx does; then it breaks them, and waits some seconds for what they have to undo. A connection that
// was accepted is served, or told in gRPC's way to connect again; one that was not accepted waits for the next server, if another
// process has the socket open too, as systemd has. So between two servers on a socket of systemd no call is lost.
func (s *Server) Stop(ctx context.Context) {
	s.calls.end()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.shut()
		s.hall.taken()
		s.grpc.GracefulStop()
	}()
	newcomers := time.AfterFunc(newcomersFor, s.hall.clear)
	defer newcomers.Stop()
	select {
	case <-stopped:
	case <-ctx.Done():
		s.hall.clear()
		go s.grpc.Stop()
		select {
		case <-stopped:
		case <-time.After(brokenFor):
			s.log.Warn("calls that were broken have not ended", "after", brokenFor)
		}
	}
	s.collector.wait(ctx)
	s.d.KeepOpen(false)
	s.follow.Do(func() {}) // none begins any more
	if s.shims != nil {
		s.shims.stop()
	}
}

// Idle tells for how long no call has been under way and no connection has begun; 0 while one is. A connection without
// calls does not count: Stop tells its client to connect again. Neither does one that never speaks, or a call whose message
// does not come: the server waits for it for a bounded time.
func (s *Server) Idle() time.Duration {
	since, quiet := s.hall.quiet()
	last, none := s.calls.quiet()
	if !quiet || !none {
		return 0
	}
	if last.After(since) {
		since = last
	}
	return time.Since(since)
}

// Retire has servers that have all been idle for a time begin no more calls, and tells whether they were. Stop is to follow. A call that comes
// between the two is no call of these servers: its client is told in HTTP/2's way (RFC 9113, section 6.8) that it was not looked at, and makes
// it again on a new connection, as gRPC does by itself. So none is ended that has just begun. The first call of a connection that is younger than
// a second is an exception: it may be made again already, which gRPC does once.
func Retire(idle time.Duration, all ...*Server) bool {
	for _, s := range all {
		s.hall.mu.Lock()
		defer s.hall.mu.Unlock()
	}
	for _, s := range all {
		last, none := s.calls.quiet()
		if !none || s.hall.early > 0 || time.Since(last) < idle || time.Since(s.hall.since) < idle {
			return false
		}
	}
	for _, s := range all {
		s.hall.retired = true
	}
	return true
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
