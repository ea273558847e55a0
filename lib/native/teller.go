// SPDX-License-Identifier: Apache-2.0

package native

import (
	"sync"

	"github.com/containerd/containerd/api/types/transfer"
)

// teller sends a client the progress of a transfer, at the pace at which the client reads. Who tells does not wait: a transfer holds
// locks while it tells, and others wait for these, so that a client that is stopped would hold up everybody who wants the same layer.
// What a client has not read is replaced by what is newer of the same.
type teller struct {
	send func(*transfer.Progress) error

	mu      sync.Mutex
	waiting []*transfer.Progress
	last    map[string]int // index of the newest that waits, by what it is about
	sending chan struct{}  // closed when nothing waits any more; nil: nobody sends
	broken  bool           // the client is gone
}

// tell has a message sent after those that were told before.
func (t *teller) tell(p *transfer.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken {
		return
	}
	if i, ok := t.last[p.Name]; ok && t.waiting[i].Event == p.Event {
		t.waiting[i] = p
		return
	}
	if t.last == nil {
		t.last = map[string]int{}
	}
	t.last[p.Name] = len(t.waiting)
	t.waiting = append(t.waiting, p)
	if t.sending == nil {
		t.sending = make(chan struct{})
		go t.run()
	}
}

// run sends until nothing waits.
func (t *teller) run() {
	for {
		t.mu.Lock()
		if len(t.waiting) == 0 || t.broken {
			close(t.sending)
			t.sending, t.waiting = nil, nil
			t.mu.Unlock()
			return
		}
		p := t.waiting
		t.waiting, t.last = nil, nil
		t.mu.Unlock()
		for _, one := range p {
			if t.send(one) != nil {
				t.mu.Lock()
				t.broken = true
				t.mu.Unlock()
				break
			}
		}
	}
}

// flush waits until the client has what was told.
func (t *teller) flush() {
	t.mu.Lock()
	sending := t.sending
	t.mu.Unlock()
	if sending != nil {
		<-sending
	}
}
