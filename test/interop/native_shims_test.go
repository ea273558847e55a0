// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	shimapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	publisher "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
)

// TestNativeShimEvents: what containerd's shims publish is in the journal, also across a restart of ctrd.
func TestNativeShimEvents(t *testing.T) {
	n := withNative(t)
	address := n.socket() + ".ttrpc"
	p, err := publisher.NewPublisher(address)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const each = 20
	publish := func(round int) {
		var all sync.WaitGroup
		for i := range each {
			all.Go(func() {
				err := p.Publish(in("shims"), "/tasks/oom", &events.TaskOOM{ContainerID: fmt.Sprintf("c%d-%d", round, i)})
				if errors.Is(err, ttrpc.ErrClosed) && round > 0 {
					return // calls of one publisher close each other's new connection; it sends such an event again, a second later
				}
				if err != nil {
					t.Errorf("publish: %v", err)
				}
			})
		}
		all.Wait()
	}
	publish(0)
	n.end(t, syscall.SIGKILL)
	n.start(t)
	publish(1)
	until(t, "all events are in the journal", func() error {
		out := n.Must(t, "ctrd", "-n", "shims", "events", "--filter", `topic=="/tasks/oom"`, "--format", "{{.event.container_id}}")
		ids := strings.Fields(out)
		slices.Sort(ids)
		if got := len(slices.Compact(ids)); got != 2*each {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})

	// A client that says nothing of sense is told so, and is in nobody's way.
	c, err := net.DialTimeout("unix", address, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(c)
	defer client.Close()
	if _, err := shimapi.NewTTRPCEventsClient(client).Forward(t.Context(), &shimapi.ForwardRequest{}); !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
		t.Errorf("no event: %v", err)
	}
	bad, err := net.DialTimeout("unix", address, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	bad.Write([]byte(strings.Repeat("\xff", 100)))
	if _, err := shimapi.NewTTRPCEventsClient(client).Forward(t.Context(), &shimapi.ForwardRequest{}); errors.Is(err, ttrpc.ErrClosed) || err == nil {
		t.Errorf("beside a bad client: %v", err)
	}
}
