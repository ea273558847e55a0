// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"cmp"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/pod"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// Namespace has all that the CRI makes. It is the one that containerd uses for it.
const Namespace = "k8s.io"

// Options are what a Server needs.
type Options struct {
	Dir     *state.Dir
	Version string // of ctrd
	Log     *slog.Logger

	// Config gives the configuration that is in force, which changes when it is reloaded; nil: the defaults.
	Config func() *config.Config
	// HostDirs are where hosts.toml files are looked for; see registry.Options.
	HostDirs []string
	// Pinned are normalised names of images that the kubelet is to keep.
	Pinned []string
	// PullTimeout is how long a pull may make no progress; 0 is 5 minutes, negative is for ever.
	PullTimeout time.Duration
	// Snapshotter names the one that keeps the images of a runtime handler; nil: the default one, whatever the handler.
	Snapshotter func(handler string) (string, error)
	// StreamAddress is where exec, attach and port-forward are served; empty: DefaultStreamAddress.
	StreamAddress string
	// Busy, when set, is called when a stream is asked for, and done when it has ended or nobody has come for it.
	Busy func() (done func())
	// ReadyMadeNetwork gives pods a bridge network of ctrd's own where none is configured.
	ReadyMadeNetwork bool
	// Collect, when set, has what nothing refers to any more removed, soon.
	Collect func()
}

// defaultPullTimeout is containerd's image_pull_progress_timeout.
const defaultPullTimeout = 5 * time.Minute

// Server answers the CRI. It keeps nothing that the state directory does not hold.
type Server struct {
	d         *state.Dir
	version   string
	log       *slog.Logger
	readyMade bool

	config      func() *config.Config
	hostDirs    []string
	pinned      []string
	pullTimeout time.Duration
	handlers    func(handler string) (string, error)
	collect     func()
	documents   documents
	sizes       treeSizes
	streams     streams
	rates       rates
}

// New makes a server.
func New(o Options) *Server {
	s := &Server{
		d: o.Dir, version: o.Version, log: o.Log, config: o.Config, readyMade: o.ReadyMadeNetwork,
		hostDirs: o.HostDirs, pinned: o.Pinned, pullTimeout: cmp.Or(o.PullTimeout, defaultPullTimeout), handlers: o.Snapshotter, collect: o.Collect,
	}
	if s.config == nil {
		s.config = config.Default
	}
	if s.collect == nil {
		s.collect = func() {}
	}
	s.streams = streams{s: s, addr: cmp.Or(o.StreamAddress, DefaultStreamAddress), busy: o.Busy}
	if s.streams.busy == nil {
		s.streams.busy = func() func() { return func() {} }
	}
	return s
}

// pods is where pods are made, by the configuration as it is now.
func (s *Server) pods() pod.Host {
	return pod.Host{Dir: s.d, Namespace: Namespace, Config: s.config(), ReadyMade: s.readyMade}
}

// Close takes no more clients of streams. Those that are under way go on as long as the process.
func (s *Server) Close() { s.streams.close() }

// snapshotter gives the one that keeps the images of a runtime handler. A handler that there is not is
// errdefs.ErrInvalidArgument.
func (s *Server) snapshotter(handler string) (*snapshot.Snapshotter, error) {
	if s.handlers == nil {
		return snapshot.Overlay, nil
	}
	name, err := s.handlers(handler)
	if err != nil {
		return nil, err
	}
	return snapshot.Named(name)
}

// Register adds both services of the CRI to a gRPC server, which makes a status of the errors that they return.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	runtimeapi.RegisterRuntimeServiceServer(r, runtimeService{s: s})
	runtimeapi.RegisterImageServiceServer(r, imageService{s: s})
}

// runtimeService is the CRI's service of pods and containers.
type runtimeService struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	s *Server
}

// imageService is the CRI's service of images.
type imageService struct {
	runtimeapi.UnimplementedImageServiceServer
	s *Server
}
