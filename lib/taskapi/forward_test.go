// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

type eventSink chan *events.ForwardRequest

func (s eventSink) Forward(_ context.Context, r *events.ForwardRequest) (*emptypb.Empty, error) {
	s <- r
	return new(emptypb.Empty), nil
}

// TestForward: an event reaches the event service of the real ttrpc library.
func TestForward(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	sink := make(eventSink, 1)
	events.RegisterTTRPCEventsService(server, sink)
	go server.Serve(t.Context(), l)
	c, err := Dial(t.Context(), "unix://"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	at := time.Date(2024, 5, 6, 7, 8, 9, 10, time.UTC)
	e := Envelope{Time: at, Namespace: "ns", Topic: "/tasks/oom", Event: &Any{TypeURL: "containerd.events.TaskOOM", Value: []byte{0x0a, 1, 'c'}}}
	if err := c.Forward(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	got := (<-sink).Envelope
	if !got.Timestamp.AsTime().Equal(at) || got.Namespace != "ns" || got.Topic != e.Topic || got.Event.TypeUrl != e.Event.TypeURL || string(got.Event.Value) != string(e.Event.Value) {
		t.Errorf("%v", got)
	}
	server.Close()
	if err := c.Forward(t.Context(), e); !errdefs.IsUnavailable(err) {
		t.Errorf("a server that is gone: %v", err)
	}
}
