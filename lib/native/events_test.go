// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
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
