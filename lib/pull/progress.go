// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Status is what happens to a descriptor.
type Status string

// In the order in which they come; what is there already goes to Exists at once.
const (
	Resolving   Status = "resolving" // the reference; the event has no digest yet
	Waiting     Status = "waiting"   // for its turn or for another process that brings the same
	Downloading Status = "downloading"
	Unpacking   Status = "unpacking" // all bytes have arrived
	Done        Status = "done"
	Exists      Status = "exists"
)

// Event is one step of one descriptor of an image.
type Event struct {
	Image      string             `json:"image"`
	Descriptor ocispec.Descriptor `json:"descriptor"`
	Status     Status             `json:"status"`
	Current    int64              `json:"current"` // bytes that are there, of Descriptor.Size
}

// interval is the least time between two events of one descriptor with the same status.
const interval = 50 * time.Millisecond

// reporter hands events to the caller, one at a time.
type reporter struct {
	mu    sync.Mutex
	image string
	to    func(Event)
}

func (r *reporter) send(desc ocispec.Descriptor, s Status, current int64) {
	if r.to == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to(Event{Image: r.image, Descriptor: desc, Status: s, Current: current})
}

// meter counts the bytes of one download.
type meter struct {
	r    *reporter
	desc ocispec.Descriptor
	mu   sync.Mutex
	have int64
	last time.Time
}

func (m *meter) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.have += int64(n)
	if now := time.Now(); now.Sub(m.last) >= interval {
		m.last = now
		m.r.send(m.desc, Downloading, m.have)
	}
}
