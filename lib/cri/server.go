// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"cmp"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
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
	// Hosts has the directories of hosts.toml files, separated by colons; empty: the configuration says.
	Hosts string
	// Busy, when set, is called when a stream is asked for, and done when it has ended or nobody has come for it.
	Busy func() (done func())
	// ReadyMadeNetwork gives pods a bridge network of ctrd's own where none is configured.
	ReadyMadeNetwork bool
	// Plugins are asked about pods and containers; nil: there are none.
	Plugins pod.Plugins
	// Collect, when set, has what nothing refers to any more removed, soon.
	Collect func()
	// Lasting says that the server is asked for lists again and again.
	Lasting bool
}

// Server answers the CRI. It keeps nothing that the state directory does not say, but for a while what that has said.
type Server struct {
	d         *state.Dir
	version   string
	log       *slog.Logger
	readyMade bool

	plugins   pod.Plugins
	config    func() *config.Config
	hosts     string
	collect   func()
	documents documents
	sizes     treeSizes
	streams   streams
	rates     rates
	lists     *pod.Lists // nil: for each list its own

	podList       listed[pod.Status, *runtimeapi.PodSandbox]
	containerList listed[pod.ContainerStatus, *runtimeapi.Container]
}

// New makes a server.
func New(o Options) *Server {
	s := &Server{
		d: o.Dir, version: o.Version, log: o.Log, config: o.Config, readyMade: o.ReadyMadeNetwork, hosts: o.Hosts, collect: o.Collect, plugins: o.Plugins,
	}
	if s.config == nil {
		c := config.Default()
		s.config = func() *config.Config { return c }
	}
	if s.collect == nil {
		s.collect = func() {}
	}
	if o.Lasting {
		s.lists = pod.NewLists(o.Dir, Namespace)
	}
	s.streams = streams{s: s, busy: o.Busy}
	if s.streams.busy == nil {
		s.streams.busy = func() func() { return func() {} }
	}
	return s
}

// pods is where pods are made, by the configuration as it is now.
func (s *Server) pods() pod.Host {
	return pod.Host{Dir: s.d, Namespace: Namespace, Config: s.config(), ReadyMade: s.readyMade, Plugins: s.plugins, Lists: s.lists}
}

// Forget gives up what the server keeps in memory only to be faster the next time.
func (s *Server) Forget() {
	if s.lists != nil {
		s.lists.Forget()
	}
	s.podList.forget()
	s.containerList.forget()
}

// Close takes no more clients of streams. Those that are under way go on as long as the process.
func (s *Server) Close() { s.streams.close() }

// snapshotter gives the one that keeps the images of a runtime handler. A handler that there is not is
// errdefs.ErrInvalidArgument.
func (s *Server) snapshotter(handler string) (*snapshot.Snapshotter, error) {
	c := s.config()
	r, ok := c.Runtimes[cmp.Or(handler, c.DefaultRuntime)]
	if !ok && handler != "" {
		return nil, fmt.Errorf("%q: there is no such runtime: %w", handler, errdefs.ErrInvalidArgument)
	}
	return snapshot.Named(cmp.Or(r.Snapshotter, c.Snapshotter))
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
