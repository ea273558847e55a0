// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/types/known/anypb"
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
