// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	apitypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

type eventSink chan *apitypes.Envelope

func (s eventSink) Forward(_ context.Context, r *ttrpcevents.ForwardRequest) (*emptypb.Empty, error) {
	s <- r.Envelope
	return new(emptypb.Empty), nil
}

// TestForward: events reach the generated event service on the real ttrpc, and
// containerd's typeurl package knows them.
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
	sink := make(eventSink, 1)
	ttrpcevents.RegisterTTRPCEventsService(server, sink)
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), l) }()
	defer func() {
		server.Close()
		<-served
	}()

	c := dial(t, "unix://"+path)
	at := time.Date(2024, 5, 6, 7, 8, 9, 10, time.UTC)
	for _, e := range []struct {
		ours   Event
		topic  string
		theirs proto.Message
	}{
		{&TaskCreate{ContainerID: "c", Bundle: "/b", Pid: 7, IO: &TaskIO{Stdin: "i", Stdout: "o", Stderr: "e", Terminal: true},
			Rootfs: []Mount{{Type: "overlay", Source: "overlay", Options: []string{"x=y"}}}}, "/tasks/create",
			&events.TaskCreate{ContainerID: "c", Bundle: "/b", Pid: 7, IO: &events.TaskIO{Stdin: "i", Stdout: "o", Stderr: "e", Terminal: true},
				Rootfs: []*apitypes.Mount{{Type: "overlay", Source: "overlay", Options: []string{"x=y"}}}}},
		{&TaskStart{"c", 7}, "/tasks/start", &events.TaskStart{ContainerID: "c", Pid: 7}},
		{&TaskDelete{"c", 7, 3, at, "x"}, "/tasks/delete", &events.TaskDelete{ContainerID: "c", Pid: 7, ExitStatus: 3, ExitedAt: timestamppb.New(at), ID: "x"}},
		{&TaskExit{"c", "x", 7, 3, at}, "/tasks/exit", &events.TaskExit{ContainerID: "c", ID: "x", Pid: 7, ExitStatus: 3, ExitedAt: timestamppb.New(at)}},
		{&TaskOOM{"c"}, "/tasks/oom", &events.TaskOOM{ContainerID: "c"}},
		{&TaskExecAdded{"c", "x"}, "/tasks/exec-added", &events.TaskExecAdded{ContainerID: "c", ExecID: "x"}},
		{&TaskExecStarted{"c", "x", 7}, "/tasks/exec-started", &events.TaskExecStarted{ContainerID: "c", ExecID: "x", Pid: 7}},
		{&TaskPaused{"c"}, "/tasks/paused", &events.TaskPaused{ContainerID: "c"}},
		{&TaskResumed{"c"}, "/tasks/resumed", &events.TaskResumed{ContainerID: "c"}},
		{&TaskCheckpointed{"c", "/k"}, "/tasks/checkpointed", &events.TaskCheckpointed{ContainerID: "c", Checkpoint: "/k"}},
	} {
		if err := c.Forward(t.Context(), NewEnvelope(at, "ns", e.ours)); err != nil {
			t.Fatal(err)
		}
		got := <-sink
		if !got.Timestamp.AsTime().Equal(at) || got.Namespace != "ns" || got.Topic != e.topic {
			t.Errorf("envelope is %v", got)
		}
		back, err := typeurl.UnmarshalAny(got.Event)
		if err != nil || !proto.Equal(back.(proto.Message), e.theirs) {
			t.Errorf("%s is %v, %v", e.topic, back, err)
		}
	}
	server.Close()
	if err := c.Forward(t.Context(), NewEnvelope(at, "ns", &TaskOOM{})); !errdefs.IsUnavailable(err) {
		t.Errorf("a server that is gone: %v", err)
	}
}
