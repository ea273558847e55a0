// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"

	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/state"
)

// view reads what a call is about, in its namespace.
func (s *Server) view(ctx context.Context, fn func(tx *state.Tx, ns string) error) error {
	ns, err := namespace(ctx)
	if err != nil {
		return err
	}
	return s.d.View(ctx, func(tx *state.Tx) error { return fn(tx, ns) })
}

// update changes durable records, in the namespace of a call.
func (s *Server) update(ctx context.Context, fn func(tx *state.Tx, ns string) error) error {
	ns, err := namespace(ctx)
	if err != nil {
		return err
	}
	return s.d.Update(ctx, nil, func(tx *state.Tx) error { return fn(tx, ns) })
}

// collect removes what nothing refers to any more, before the answer or after it.
func (s *Server) collect(ctx context.Context, now bool) error {
	if !now {
		s.collector.request()
		return nil
	}
	_, err := gc.Collect(ctx, s.d)
	return err
}
