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

func (m *Envelope) append(b []byte) []byte {
	b = putTime(b, 1, m.Timestamp)
	b = putString(b, 2, m.Namespace)
	b = putString(b, 3, m.Topic)
	return putAny(b, 4, m.Event)
}

func (m *Envelope) set(f field) error {
	switch f.num {
	case 1:
		return f.time(&m.Timestamp)
	case 2:
		return f.string(&m.Namespace)
	case 3:
		return f.string(&m.Topic)
	case 4:
		return f.any(&m.Event)
	}
	return nil
}

// forwardRequest is the request of the event service's only method.
type forwardRequest struct{ Envelope *Envelope }

func (m *forwardRequest) append(b []byte) []byte {
	if m.Envelope == nil {
		return b
	}
	return putMessage(b, 1, m.Envelope)
}

func (m *forwardRequest) set(f field) error {
	if f.num == 1 {
		return sub(f, &m.Envelope)
	}
	return nil
}

// Forward gives an event to containerd; the client is connected to its event
// service, not to a shim.
func (c *Client) Forward(ctx context.Context, e Envelope) error {
	return c.invoke(ctx, eventService, "Forward", &forwardRequest{&e}, new(empty))
}
