// SPDX-License-Identifier: Apache-2.0

// Package progress says how far a transfer of an image has come.
//
// Whoever transfers sends an [Event] at each step of each blob; a command draws them. The package knows
// neither registries nor terminals, so that both sides share the words and nothing else.
package progress

import (
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Status is what happens to a descriptor.
type Status string

// What a descriptor goes through. One that is at its destination already goes to Exists at once.
const (
	Resolving   Status = "resolving" // the reference; the event has no digest yet
	Waiting     Status = "waiting"   // for its turn, or for another process that brings the same
	Downloading Status = "downloading"
	Unpacking   Status = "unpacking" // all bytes have arrived
	Uploading   Status = "uploading"
	Copying     Status = "copying" // between an archive and the store
	Done        Status = "done"
	Exists      Status = "exists"
	Mounted     Status = "mounted" // the registry took it from another of its repositories
)

// Ended tells whether nothing more happens to the descriptor.
func (s Status) Ended() bool { return s == Done || s == Exists || s == Mounted }

// Moves tells whether bytes are on their way.
func (s Status) Moves() bool { return s == Downloading || s == Uploading || s == Copying }

// Event is one step of one descriptor of an image.
type Event struct {
	Image      string             `json:"image"`
	Descriptor ocispec.Descriptor `json:"descriptor"`
	Status     Status             `json:"status"`
	Current    int64              `json:"current"`       // bytes that are there, of Descriptor.Size
	PID        int                `json:"pid,omitempty"` // of the process that is waited for, if it is known
}

// Reporter hands the events of one image to a function, one at a time.
type Reporter struct {
	image string
	mu    sync.Mutex
	to    func(Event)
}

// New makes a reporter; to may be nil.
func New(image string, to func(Event)) *Reporter { return &Reporter{image: image, to: to} }

// Send reports a step; current is the bytes that are there.
func (r *Reporter) Send(desc ocispec.Descriptor, s Status, current int64) {
	r.send(Event{Image: r.image, Descriptor: desc, Status: s, Current: current})
}

// Waits reports that a process is waited for. It reports whether anybody hears of it.
func (r *Reporter) Waits(desc ocispec.Descriptor, pid int) bool {
	r.send(Event{Image: r.image, Descriptor: desc, Status: Waiting, PID: pid})
	return r.to != nil
}

func (r *Reporter) send(e Event) {
	if r.to == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to(e)
}

// interval is the least time between two events of a meter.
const interval = 50 * time.Millisecond

// Meter reports the bytes of one transfer as they come, some 20 times a second. Its methods may be called by
// several goroutines.
type Meter struct {
	r    *Reporter
	desc ocispec.Descriptor
	s    Status
	mu   sync.Mutex
	have int64
	last time.Time
}

// Meter begins with the bytes that are there before, and reports them.
func (r *Reporter) Meter(desc ocispec.Descriptor, s Status, have int64) *Meter {
	m := &Meter{r: r, desc: desc, s: s}
	m.At(have)
	return m
}

// Add counts n more bytes.
func (m *Meter) Add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.to(m.have + int64(n))
}

// At says how many bytes are there; they may be fewer than before.
func (m *Meter) At(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.to(n)
}

func (m *Meter) to(n int64) {
	m.have = n
	if now := time.Now(); now.Sub(m.last) >= interval {
		m.last = now
		m.r.Send(m.desc, m.s, n)
	}
}
