// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/events"
	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// BenchmarkList lists 1,000 containers, each with a spec of 5 KB.
func BenchmarkList(b *testing.B) {
	s := serve(b, Options{Dir: openPatient(b)})
	ctx := metadata.AppendToOutgoingContext(context.Background(), namespaceKey, "bench")
	c := containersapi.NewContainersClient(dial(b, s.path))
	spec := &anypb.Any{TypeUrl: specType, Value: []byte(`{"ociVersion":"1.3.0","annotations":{"bench":"` + strings.Repeat("0", 5000) + `"}}`)}
	const many = 1000
	for i := range many {
		if _, err := c.Create(ctx, &containersapi.CreateContainerRequest{Container: &containersapi.Container{
			ID: fmt.Sprintf("bench-%d", i), Image: "example.com/bench:1", Labels: map[string]string{"bench": "x"},
			Runtime: &containersapi.Container_Runtime{Name: "io.containerd.runc.v2"}, Spec: spec,
		}}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		l, err := c.ListStream(ctx, &containersapi.ListContainersRequest{})
		n := 0
		for ; err == nil; n++ {
			_, err = l.Recv()
		}
		if err != io.EOF || n != many+1 {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkEvents publishes events from four clients at once, until a subscriber has each.
func BenchmarkEvents(b *testing.B) {
	s := serve(b, Options{Dir: openPatient(b)})
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), namespaceKey, "bench"))
	defer cancel()
	c := eventsapi.NewEventsClient(dial(b, s.path))
	sub, err := c.Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: []string{`topic~="/bench"`}})
	if err == nil {
		_, err = sub.Header()
	}
	data, merr := proto.Marshal(&events.NamespaceCreate{Name: "bench"})
	if err != nil || merr != nil {
		b.Fatal(err, merr)
	}
	b.ResetTimer()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range (b.N + i) / 4 {
				if _, err := c.Publish(ctx, &eventsapi.PublishRequest{Topic: "/bench", Event: &anypb.Any{TypeUrl: "containerd.events.NamespaceCreate", Value: data}}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for range b.N {
		if _, err := sub.Recv(); err != nil {
			b.Fatal(err)
		}
	}
	all.Wait()
}
