// SPDX-License-Identifier: Apache-2.0

package native

import (
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds on connections. One more is closed at once, without an answer.
const (
	maxConns     = 8192 // of a server
	maxPeerConns = 2048 // of one process
)

// hall has the connections of all doors.
type hall struct {
	log    *slog.Logger
	memory memory

	mu    sync.Mutex
	conns map[*conn]struct{}
	peers map[int32]int // connections by process
	told  map[int32]bool
	fresh int       // connections that gRPC has not looked at
	early int       // connections, the fresh ones included, that have not sent the HTTP/2 preface
	since time.Time // when the last connection or call began
	moved sync.Cond

	retired bool // no call begins any more
}

func (h *hall) init(log *slog.Logger) {
	h.log, h.memory.max = log, maxHeap
	h.conns, h.peers, h.told = map[*conn]struct{}{}, map[int32]int{}, map[int32]bool{}
	h.since, h.moved.L = time.Now(), &h.mu
}

// enter tells whether one more connection is within the bounds, and counts it.
func (h *hall) enter(c *conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) >= maxConns || h.peers[c.who.pid] >= maxPeerConns {
		return false
	}
	h.conns[c] = struct{}{}
	h.peers[c.who.pid]++
	h.fresh++
	h.early++
	return true
}

// full tells whether the bound is news: it is told once until the peer has no connection left.
func (h *hall) full(who creds) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.told[who.pid] || len(h.told) >= maxConns {
		return false
	}
	h.told[who.pid] = true
	return true
}

// step moves a connection on. Stages only grow.
func (h *hall) step(c *conn, to stage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, in := h.conns[c]; !in || to <= c.at {
		return
	}
	if c.at == fresh {
		h.fresh--
	}
	if c.at < begun && to >= begun {
		h.early--
	}
	if to == begun {
		h.since = time.Now()
	}
	c.at = to
	if to == gone {
		delete(h.conns, c)
		if h.peers[c.who.pid]--; h.peers[c.who.pid] == 0 {
			delete(h.peers, c.who.pid)
			delete(h.told, c.who.pid)
		}
	}
	h.moved.Broadcast()
}

// quiet tells since when no connection and no call has begun, and whether no connection is about to.
func (h *hall) quiet() (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.since, h.early == 0
}

// taken waits until gRPC has looked at each connection that got in.
func (h *hall) taken() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.fresh > 0 {
		h.moved.Wait()
	}
}

// clear closes the connections that have not sent the preface.
func (h *hall) clear() {
	h.mu.Lock()
	var early []*conn
	for c := range h.conns {
		if c.at < begun {
			early = append(early, c)
		}
	}
	h.mu.Unlock()
	for _, c := range early {
		c.Close()
	}
}

// stage is how far a connection has come.
type stage int

const (
	fresh  stage = iota // accepted
	looked              // gRPC waits for its preface
	begun               // it speaks HTTP/2
	gone
)

// conn is a connection that knows its peer; gRPC asks for its address.
type conn struct {
	*net.UnixConn
	who   creds
	hall  *hall
	since time.Time    // when it was accepted
	at    stage        // guarded by hall.mu
	in    *frames      // what the peer sends; nil: it is not HTTP/2
	calls atomic.Int32 // under way
	held  atomic.Int64 // about how many bytes have come of which no call has had the message
	owed  atomic.Int64 // about how many bytes of answers have not been written
	heard atomic.Int64 // how often something has come
}

// RemoteAddr gives the peer's credentials.
func (c *conn) RemoteAddr() net.Addr { return peerAddr{c} }

// Read reads what the peer sends, but for the calls that are not admitted.
func (c *conn) Read(p []byte) (int, error) {
	for {
		before := 0
		if c.in != nil {
			before = copy(p, c.in.kept)
		}
		if before == len(p) && before > 0 {
			return 0, io.ErrShortBuffer // gRPC reads the preface alone, and then into a buffer of some KiB
		}
		n, err := c.UnixConn.Read(p[before:])
		c.held.Add(int64(n))
		c.heard.Add(1)
		c.hall.memory.moved(n, c.hall)
		if err != nil || c.in == nil {
			return n, err
		}
		if n = c.in.pass(p[:before+n], c.admit); n > 0 {
			return n, nil
		}
	}
}

// Write writes answers to the peer.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.UnixConn.Write(p)
	if c.owed.Add(-int64(n)) < 0 {
		c.owed.Store(0) // frames and headers
	}
	return n, err
}

// firstCallFor is how long a connection is a new one, of which the first call is admitted in any case: gRPC makes a call again that was not,
// but once.
const firstCallFor = time.Second

// admit tells whether one more call of the connection may begin. None may after one that may not.
func (c *conn) admit() bool {
	h := c.hall
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.retired && (c.in.last > 0 || time.Since(c.since) > firstCallFor) {
		return false
	}
	h.since = time.Now()
	return true
}

// holds is about how many bytes the connection has the server keep.
func (c *conn) holds() int64 { return c.held.Load() + c.owed.Load() }

// SetDeadline is how gRPC tells what it does with a connection. It sets a deadline when it begins to wait for the preface,
// past the point where a server that stops drops a connection unseen, and takes it away after the preface.
func (c *conn) SetDeadline(t time.Time) error {
	if t.IsZero() {
		c.hall.step(c, begun)
	} else {
		c.hall.step(c, looked)
	}
	return c.UnixConn.SetDeadline(t)
}

// Close closes the connection.
func (c *conn) Close() error {
	c.hall.step(c, gone)
	return c.UnixConn.Close()
}
