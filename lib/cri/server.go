// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"log/slog"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/state"
)

// Namespace has all that the CRI makes. It is the one that containerd uses for it.
const Namespace = "k8s.io"

// Options are what a Server needs.
type Options struct {
	Dir     *state.Dir
	Version string // of ctrd
	Log     *slog.Logger
}

// Server answers the CRI. It keeps nothing that the state directory does not hold.
type Server struct {
	d       *state.Dir
	version string
	log     *slog.Logger
}

// New makes a server.
func New(o Options) *Server {
	return &Server{d: o.Dir, version: o.Version, log: o.Log}
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
