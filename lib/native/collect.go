// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/state"
)

// collector runs the collections that nobody waits for, one at a time. One that a kill takes away is made good by the next.
type collector struct {
	d   *state.Dir
	log *slog.Logger
	// after is how long a collection that nobody waits for is put off, so that many removals share one.
	after func() time.Duration

	mu     sync.Mutex
	wanted bool
	ended  chan struct{} // closed when the goroutine has ended; nil when there is none
}

// Collect has what nothing refers to any more removed soon. It does not wait for that; Stop does.
func (s *Server) Collect() { s.collector.request() }

// request has a collection run soon.
func (c *collector) request() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = true
	if c.ended == nil {
		c.ended = make(chan struct{})
		go c.run(c.ended)
	}
}

func (c *collector) run(ended chan struct{}) {
	defer close(ended)
	for {
		time.Sleep(c.after())
		c.mu.Lock()
		if !c.wanted {
			c.ended = nil
			c.mu.Unlock()
			return
		}
		c.wanted = false
		c.mu.Unlock()
		if r, err := gc.Collect(context.Background(), c.d); err != nil {
			c.log.Warn("collect", "error", err)
		} else {
			c.log.Debug("collected", "removed", r)
		}
	}
}

// wait waits for the end of what was requested.
func (c *collector) wait(ctx context.Context) {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended == nil {
		return
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
}
