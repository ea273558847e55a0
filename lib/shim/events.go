// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"sync"
	"time"

	"ctrd.dev/ctrd/lib/event"
)

const (
	// maxEvents bounds the events that wait for a journal that cannot be written, or for a containerd that is away.
	maxEvents = 1024
	// lastEvents bounds how long the end of the supervisor waits for them: a `run --rm` waits for that end.
	lastEvents = time.Second / 2
)

// occurrence is an event and when it happened.
type occurrence struct {
	event.Payload
	at time.Time
}

// publisher appends events to the journal, or gives them to containerd, in order, without anybody waiting for that.
type publisher struct {
	send func(namespace string, all []occurrence) error // nil: there are none to write
	logf func(format string, args ...any)

	mu      sync.Mutex
	waiting []occurrence
	lost    int
	busy    bool
	empty   chan struct{} // closed when nothing waits any more; nil when nothing does
}

// appendTo gives a publisher's send that appends to a journal.
func appendTo(j event.Journal) func(string, []occurrence) error {
	return func(ns string, all []occurrence) error {
		payloads := make([]event.Payload, len(all))
		for i, e := range all {
			payloads[i] = e.Payload
		}
		return j.Append(ns, payloads...)
	}
}

func (s *server) emit(p ...event.Payload) { s.events.add(s.config.Namespace, p) }

// add hands over events and returns at once. When too many wait, the oldest are dropped, and the number of them
// is told in the log.
func (q *publisher) add(ns string, p []event.Payload) {
	if q.send == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range p {
		q.waiting = append(q.waiting, occurrence{e, time.Now()})
	}
	if n := len(q.waiting) - maxEvents; n > 0 {
		q.lost += n
		q.waiting = q.waiting[n:]
	}
	if q.busy {
		return
	}
	q.busy, q.empty = true, make(chan struct{})
	go q.work(ns)
}

func (q *publisher) work(ns string) {
	for {
		q.mu.Lock()
		batch, lost := q.waiting, q.lost
		q.waiting, q.lost = nil, 0
		if len(batch) == 0 {
			q.busy = false
			close(q.empty)
		}
		q.mu.Unlock()
		if lost > 0 {
			q.logf("%d events were dropped: too many wait", lost)
		}
		if len(batch) == 0 {
			return
		}
		if err := q.send(ns, batch); err != nil {
			q.logf("%v", err)
		}
	}
}

// wait waits for what was added, for a bounded time.
func (q *publisher) wait() {
	q.mu.Lock()
	empty, busy := q.empty, q.busy
	q.mu.Unlock()
	if !busy {
		return
	}
	select {
	case <-empty:
	case <-time.After(lastEvents):
		q.logf("events are not taken in time")
	}
}
