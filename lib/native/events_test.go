// SPDX-License-Identifier: Apache-2.0

package native

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/event"
)

// TestPublishedTogether: events that many publish at once are all in the journal, each once and each publisher's in order, and
// a failure is told to all whose events are lost.
func TestPublishedTogether(t *testing.T) {
	s := New(Options{Dir: openDir(t)})
	e := eventService{s: s}
	const publishers, each = 16, 50
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				m, err := anypb.New(&events.NamespaceCreate{Name: strconv.Itoa(i)})
				if err == nil {
					err = e.append(&types.Envelope{Namespace: fmt.Sprint("p", p), Topic: "/test", Event: m})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	next, seq := map[string]int{}, uint64(0)
	for one, err := range s.d.Journal().Read(t.Context(), 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		if one.Seq != seq+1 {
			t.Errorf("event %d after %d", one.Seq, seq)
		}
		seq = one.Seq
		if want := fmt.Sprintf(`{"name":"%d"}`, next[one.Namespace]); string(one.Data) != want {
			t.Errorf("%s: %s, want %s", one.Namespace, one.Data, want)
		}
		next[one.Namespace]++
	}
	if seq != publishers*each {
		t.Errorf("%d events, want %d", seq, publishers*each)
	}
	if s.published.at || len(s.published.waiting) > 0 {
		t.Error("somebody is still at it")
	}
	dir := s.d.Run("events")
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		wg.Go(func() {
			if err := e.append(&types.Envelope{Namespace: "p", Topic: "/test", Event: &anypb.Any{TypeUrl: "none"}}); err == nil {
				t.Error("an event without a journal is published")
			}
		})
	}
	wg.Wait()
}

// TestLargeEvent: an event that no message to a subscriber could hold is refused, and one that is as large as may be is sent.
func TestLargeEvent(t *testing.T) {
	s := serve(t, Options{Dir: openPatient(t)})
	c := eventsapi.NewEventsClient(dial(t, s.path, grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(maxMessage), grpc.MaxCallRecvMsgSize(maxMessage))))
	ctx := in(t, "large")
	sub, err := c.Subscribe(ctx, &eventsapi.SubscribeRequest{})
	if err == nil {
		_, err = sub.Header()
	}
	if err != nil {
		t.Fatal(err)
	}
	publish := func(size int) error {
		_, err := c.Publish(ctx, &eventsapi.PublishRequest{Topic: "/large", Event: &anypb.Any{TypeUrl: "example.com/none", Value: make([]byte, size)}})
		return err
	}
	if err := publish(maxMessage - 64); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("an event as large as a message: %v", err)
	}
	const large = maxEvent/4*3 - 1024 // as base64
	for _, size := range []int{large, 10} {
		if err := publish(size); err != nil {
			t.Fatal(err)
		}
		if got, err := sub.Recv(); err != nil || len(got.Event.Value) != size {
			t.Fatalf("%d bytes: %d, %v", size, len(got.GetEvent().GetValue()), err)
		}
	}
}

// TestUnknownEventFields: an event of a known type that is large by fields which are not known here ends no subscription.
func TestUnknownEventFields(t *testing.T) {
	s := serve(t, Options{Dir: openPatient(t)})
	c := eventsapi.NewEventsClient(dial(t, s.path, grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(maxMessage))))
	ctx := in(t, "unknown")
	sub, err := c.Subscribe(ctx, &eventsapi.SubscribeRequest{})
	if err == nil {
		_, err = sub.Header()
	}
	if err != nil {
		t.Fatal(err)
	}
	known, err := anypb.New(&events.NamespaceCreate{Name: "known"})
	if err != nil {
		t.Fatal(err)
	}
	unknown := protowire.AppendTag(slices.Clone(known.Value), 1000, protowire.BytesType)
	unknown = protowire.AppendBytes(unknown, make([]byte, maxMessage-1024))
	for _, value := range [][]byte{unknown, known.Value} {
		if _, err := c.Publish(ctx, &eventsapi.PublishRequest{Topic: "/unknown", Event: &anypb.Any{TypeUrl: known.TypeUrl, Value: value}}); err != nil {
			t.Fatal(err)
		}
		if got, err := sub.Recv(); err != nil || !bytes.Equal(got.Event.Value, known.Value) {
			t.Fatalf("of %d bytes: %d, %v", len(value), len(got.GetEvent().GetValue()), err)
		}
	}
}

// TestAnyPayload: a subscriber is sent each payload as it was published: one of a type that is not known here, an empty one of such
// a type, and one of a known type with a message in it that is not known.
func TestAnyPayload(t *testing.T) {
	s := serve(t, Options{Dir: openPatient(t)})
	c := eventsapi.NewEventsClient(dial(t, s.path))
	ctx := in(t, "any")
	sub, err := c.Subscribe(ctx, &eventsapi.SubscribeRequest{})
	if err == nil {
		_, err = sub.Header()
	}
	if err != nil {
		t.Fatal(err)
	}
	inner, err := proto.Marshal(&events.ContainerCreate{ID: "c", Runtime: &events.ContainerCreate_Runtime{
		Name: "r", Options: &anypb.Any{TypeUrl: "example.com/none.Options", Value: []byte("x")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []*anypb.Any{
		{TypeUrl: "example.com/none.Event", Value: []byte{0xff, 0}},
		{TypeUrl: "example.com/none.Event"},
		{TypeUrl: "containerd.events.ContainerCreate", Value: inner},
		{TypeUrl: "containerd.events.NamespaceCreate"},
	} {
		if _, err := c.Publish(ctx, &eventsapi.PublishRequest{Topic: "/any", Event: want}); err != nil {
			t.Errorf("%s: %v", want.TypeUrl, err)
			continue
		}
		got, err := sub.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got.Event, want) {
			t.Errorf("got %q of %s, want %q of %s", got.Event.Value, got.Event.TypeUrl, want.Value, want.TypeUrl)
		}
	}
}

// TestBadTime: an event whose time is none is refused, and the ones that are published with it are not lost.
func TestBadTime(t *testing.T) {
	s := New(Options{Dir: openDir(t)})
	e := eventService{s: s}
	for _, at := range []*timestamppb.Timestamp{{Seconds: 1 << 50}, {Seconds: -1 << 50}, {Nanos: -1}} {
		err := e.append(&types.Envelope{Namespace: "a", Topic: "/test", Event: &anypb.Any{TypeUrl: "none"}, Timestamp: at})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", at, err)
		}
	}
	if err := e.append(&types.Envelope{Namespace: "a", Topic: "/test", Event: &anypb.Any{TypeUrl: "none"}}); err != nil {
		t.Fatal(err)
	}
	for one, err := range s.d.Journal().Read(t.Context(), 0, false) {
		if err != nil || one.Seq != 1 || one.Lost != 0 {
			t.Errorf("event %d, %d lost before it, %v", one.Seq, one.Lost, err)
		}
	}
}

// TestStopLetsGo: a server that has stopped has nothing of the state directory open, so that its file system can be unmounted.
func TestStopLetsGo(t *testing.T) {
	s := serve(t, Options{})
	c := eventsapi.NewEventsClient(dial(t, s.path))
	if _, err := c.Publish(in(t, "default"), &eventsapi.PublishRequest{Topic: "/a", Event: &anypb.Any{TypeUrl: "b"}}); err != nil {
		t.Fatal(err)
	}
	open := func() (all []string) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if name, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(name, s.d.Run("events")+"/") {
				all = append(all, name)
			}
		}
		return all
	}
	if len(open()) == 0 {
		t.Error("no segment is open before")
	}
	s.Stop(t.Context())
	eventually(t, "nothing is open", func() bool { return len(open()) == 0 })
}

// TestPublishedPanics: a panic while events are appended is told to those whose events they are, and the next are appended.
func TestPublishedPanics(t *testing.T) {
	d := openDir(t)
	var p published
	entry := event.Entry{Namespace: "a", Payload: event.Foreign{ForeignTopic: "/test", ForeignType: "none", Data: []byte(`{"@value":""}`)}}
	within, others := make(chan struct{}), make(chan error, 2)
	bad := d.Journal()
	bad.Dir, bad.Tail = filepath.Join(t.TempDir(), "file"), nil
	if err := os.WriteFile(bad.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bad.Patience = &event.Patience{Lost: func(error) { <-within; panic("a fault") }}
	led := make(chan any, 1)
	go func() {
		defer func() { led <- recover() }()
		t.Error("appended:", p.append(bad, entry))
	}()
	eventually(t, "one leads", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.at && len(p.waiting) == 0 })
	for range cap(others) {
		go func() { others <- p.append(d.Journal(), entry) }()
	}
	eventually(t, "others wait", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.waiting) == cap(others) })
	close(within)
	if got := <-led; got != "a fault" {
		t.Errorf("the panic is %v", got)
	}
	for range cap(others) {
		if err := <-others; !errdefs.IsInternal(err) {
			t.Errorf("one that waited: %v", err)
		}
	}
	if err := p.append(d.Journal(), entry); err != nil {
		t.Errorf("the next: %v", err)
	}
}

// TestDeepPayload: an event that is nested deeply is decoded no further than a reader of the journal can follow, whatever it is of, and
// costs those nothing that come with it.
func TestDeepPayload(t *testing.T) {
	s := New(Options{Dir: openDir(t)})
	e := eventService{s: s}
	// nested puts a message into a field of another again and again, from the inside.
	nested := func(depth int, fields func(inner int) []byte) []byte {
		buf := make([]byte, 64*depth)
		at := len(buf)
		for range depth {
			head := fields(len(buf) - at)
			at -= copy(buf[at-len(head):], head)
		}
		return buf[at:]
	}
	anys := nested(200_000, func(inner int) []byte {
		b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "google.protobuf.Any")
		return protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.BytesType), uint64(inner))
	})
	messages := func(depth int) []byte { // a message type in a message type
		return nested(depth, func(inner int) []byte {
			return protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.BytesType), uint64(inner))
		})
	}
	looksOpaque, err := structpb.NewStruct(map[string]any{"@value": "aGk="})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := proto.MarshalOptions{Deterministic: true}.Marshal(looksOpaque)
	if err != nil {
		t.Fatal(err)
	}
	// The innermost has one more level, which makes the JSON as deep as encoding/json writes, and the line deeper than it reads.
	options := protowire.AppendVarint(protowire.AppendTag(nil, 7, protowire.BytesType), 0)
	edge := append(nested(4999, func(inner int) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.BytesType), uint64(inner+len(options)))
	}), options...)
	all := []*anypb.Any{
		{TypeUrl: "google.protobuf.Any", Value: anys},
		{TypeUrl: "google.protobuf.DescriptorProto", Value: messages(9000)},
		{TypeUrl: "google.protobuf.DescriptorProto", Value: edge},
		{TypeUrl: "google.protobuf.DescriptorProto", Value: messages(3)},
		{TypeUrl: "google.protobuf.Struct", Value: plain},
	}
	for _, m := range all {
		if err := e.append(&types.Envelope{Namespace: "a", Topic: "/test", Event: m}); err != nil {
			t.Errorf("%s: %v", m.TypeUrl, err)
		}
	}
	n := 0
	for one, err := range s.d.Journal().Read(t.Context(), 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		got, err := envelope(one)
		if err != nil || !bytes.Equal(got.Event.Value, all[n].Value) {
			t.Errorf("%d: %s of %d bytes is %d bytes, %v", n, one.Type, len(all[n].Value), len(got.GetEvent().GetValue()), err)
		}
		n++
	}
	if n != len(all) {
		t.Errorf("%d events, want %d", n, len(all))
	}
}
