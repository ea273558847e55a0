// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/event"
)

// watching is the stream of a client that asks for events. subscribed is closed when it has the header.
type watching struct {
	grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]
	ctx        context.Context
	subscribed chan struct{}
	got        chan *runtimeapi.ContainerEventResponse
}

func (w *watching) Context() context.Context { return w.ctx }

func (w *watching) SendHeader(metadata.MD) error { close(w.subscribed); return nil }

func (w *watching) Send(m *runtimeapi.ContainerEventResponse) error { w.got <- m; return nil }

// A stream of events ends with an error where some are missing, so that its client lists everything; one that begins after that does not.
func TestEventsLost(t *testing.T) {
	w := newWorld(t, Options{})
	defer w.Close()
	journal := w.d.Journal()
	watch := func() (*watching, <-chan error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		t.Cleanup(cancel)
		s := &watching{ctx: ctx, subscribed: make(chan struct{}), got: make(chan *runtimeapi.ContainerEventResponse, 10)}
		ended := make(chan error, 1)
		go func() { ended <- runtimeService{s: w.Server}.GetContainerEvents(nil, s) }()
		<-s.subscribed
		return s, ended
	}
	happens := func(id string) {
		t.Helper()
		if err := journal.Append(Namespace, event.SandboxStart{SandboxID: id}); err != nil {
			t.Fatal(err)
		}
	}
	happens("before")

	s, ended := watch()
	happens("one")
	if m := <-s.got; m.GetContainerId() != "one" {
		t.Errorf("%v", m)
	}
	// As an append does that cannot write: a byte for each event.
	if err := os.WriteFile(filepath.Join(journal.Dir, "lost"), []byte("..."), 0o600); err != nil {
		t.Fatal(err)
	}
	happens("after")
	if err := <-ended; !errdefs.IsDataLoss(err) {
		t.Errorf("the stream ended with %v, after %d events", err, len(s.got))
	}

	s, _ = watch()
	happens("two")
	if m := <-s.got; m.GetContainerId() != "two" {
		t.Errorf("%v", m)
	}
}
