// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

const (
	// maxHeap is the memory, in bytes, from which on connections are closed that hold much of it.
	maxHeap = 1 << 30
	// lookEvery is how many bytes come in and are answered between two looks at the memory.
	lookEvery = 16 << 20
	// heldAtLeast is what a connection holds that is worth closing, in bytes: more than a few messages.
	heldAtLeast = 4 * maxMessage
)

// memory bounds what clients have the server keep by beginning messages that they do not end, and by not reading answers. A message
// of each call of a connection may be under way, so the bounds of each alone do not bound the sum.
type memory struct {
	max   uint64
	since atomic.Int64 // bytes since the last look
	mu    sync.Mutex   // held while looking
}

// moved counts bytes that have come in or are answered, and closes the connection that holds most if there is too much.
func (m *memory) moved(n int, h *hall) {
	if m.since.Add(int64(n)) < lookEvery || !m.mu.TryLock() {
		return
	}
	defer m.mu.Unlock()
	m.since.Store(0)
	if heapBytes() < m.max {
		return
	}
	runtime.GC() // what counts is what is in use
	if heapBytes() < m.max {
		return
	}
	if c := h.holder(); c != nil && c.holds() >= heldAtLeast {
		h.log.Warn("a connection is closed: it holds too much memory", "peer", c.who.String(), "bytes", c.holds())
		c.Close()
	}
}

func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// holder gives the connection that has sent most of what no call has had, and read least of what it was answered.
func (h *hall) holder() (most *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		if most == nil || c.holds() > most.holds() {
			most = c
		}
	}
	return most
}

// accounts keeps the books of connections, by what gRPC tells of calls.
type accounts struct{}

// HandleRPC implements stats.Handler.
func (accounts) HandleRPC(ctx context.Context, s stats.RPCStats) {
	c, ok := connOf(ctx)
	if !ok {
		return
	}
	switch s := s.(type) {
	case *stats.Begin:
		c.calls.Add(1)
	case *stats.InPayload:
		c.held.Add(-int64(s.WireLength))
	case *stats.OutPayload:
		c.owed.Add(int64(s.WireLength))
		c.hall.memory.moved(s.WireLength, c.hall)
	case *stats.End:
		if c.calls.Add(-1) == 0 {
			c.held.Store(0) // frames, headers and what was thrown away
		}
	}
}

// TagRPC implements stats.Handler.
func (accounts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn implements stats.Handler.
func (accounts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (accounts) HandleConn(context.Context, stats.ConnStats) {}
