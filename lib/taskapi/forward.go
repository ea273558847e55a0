// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"time"
)

// eventService is where containerd takes the events of shims. Its address is
// in the environment variable TTRPC_ADDRESS, without unix://.
const eventService = "containerd.services.events.ttrpc.v1.Events"

// Envelope is containerd.types.Envelope: an event on its way.
type Envelope struct {
	Timestamp time.Time // when it happened
	Namespace string
	Topic     string // as /tasks/exit
	Event     *Any
}

func (m *Envelope) fields(c *codec) {
	c.time(1, &m.Timestamp)
	c.string(2, &m.Namespace)
	c.string(3, &m.Topic)
	c.any(4, &m.Event)
}

// forwardRequest is the request of the event service's only method.
type forwardRequest struct{ Envelope *Envelope }

func (m *forwardRequest) fields(c *codec) { optional(c, 1, &m.Envelope) }

// Forward gives an event to containerd; the client is connected to its event
// service, not to a shim.
func (c *Client) Forward(ctx context.Context, e Envelope) error {
	return c.invoke(ctx, eventService, "Forward", &forwardRequest{&e}, new(empty))
}
