// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	shimapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Shims takes the events of containerd's shims, by ttrpc: what TTRPC_ADDRESS is for. Shims of ctrd's own write to the
// journal themselves.
type Shims struct {
	s     *Server // whose journal, log and counts it has; nothing is served by it
	ttrpc *ttrpc.Server
}

// NewShims makes a server of containerd's ttrpc service of events.
func NewShims(o Options) (*Shims, error) {
	o.Also = nil
	s := &Shims{s: Bare(o)}
	var err error
	s.ttrpc, err = ttrpc.NewServer(ttrpc.WithServerHandshaker(handshaker{}), ttrpc.WithUnaryServerInterceptor(s.unary))
	if err != nil {
		return nil, fmt.Errorf("ttrpc: %w", err)
	}
	shimapi.RegisterTTRPCEventsService(s.ttrpc, shimEvents{s.s})
	return s, nil
}

// Serve is [Server.Serve].
func (s *Shims) Serve(l *net.UnixListener) error {
	d := s.s.open(l)
	defer d.end()
	if err := s.ttrpc.Serve(context.Background(), d); !errors.Is(err, ttrpc.ErrServerClosed) {
		return err
	}
	return nil
}

// Stop takes no new connections, and ends the others when the calls that are under way have ended, or when ctx has. A shim sends
// an event again that was not answered.
func (s *Shims) Stop(ctx context.Context) {
	s.s.shut()
	if s.ttrpc.Shutdown(ctx) != nil {
		s.ttrpc.Close()
	}
}

// Idle is [Server.Idle].
func (s *Shims) Idle() time.Duration { return s.s.Idle() }

func (s *Shims) unary(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, handle ttrpc.Method) (answer any, err error) {
	ctx, release := s.s.calls.begin(ctx, info.FullMethod)
	defer release()
	began, ended := time.Now(), s.s.metrics.begin("unary", info.FullMethod)
	defer func() {
		err = s.s.end(ctx, info.FullMethod, nil, began, recover(), err)
		ended(status.Code(err))
	}()
	return handle(ctx, unmarshal)
}

// handshaker counts a connection as one that speaks: ttrpc has no preface.
type handshaker struct{}

// Handshake implements ttrpc.Handshaker.
func (handshaker) Handshake(_ context.Context, c net.Conn) (net.Conn, any, error) {
	if c, ok := c.(*conn); ok {
		c.hall.step(c, begun)
	}
	return c, nil, nil
}

type shimEvents struct{ s *Server }

// Forward appends an event of a shim to the journal.
func (e shimEvents) Forward(_ context.Context, r *shimapi.ForwardRequest) (*emptypb.Empty, error) {
	if r.GetEnvelope() == nil {
		return nil, fmt.Errorf("forward: no event: %w", errdefs.ErrInvalidArgument)
	}
	if err := (eventService{s: e.s}).append(r.Envelope); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
