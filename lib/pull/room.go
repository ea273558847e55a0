// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"sync"

	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// made lists the directories that a pull has made.
type made struct {
	mu  sync.Mutex
	ids []snapshot.ID
}

func (m *made) add(id snapshot.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ids = append(m.ids, id)
}

// leaveRoom is for a pull that has failed. One that has failed for want of room throws away the layers that it has
// unpacked, unless a record names them or unfinished work needs them: they can be had again from the blobs, whose bytes
// the next pull goes on with. It is called when the lease has been let go.
func (p *puller) leaveRoom(ctx context.Context, failed error) error {
	var room *state.RoomError
	if !errors.As(failed, &room) || len(p.made.ids) == 0 {
		return failed
	}
	l, err := p.d.Lock(context.WithoutCancel(ctx), nil, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		return failed // a collection does it
	}
	held, err := lease.Live(p.d)
	named := map[snapshot.ID]bool{}
	if err == nil {
		err = p.d.View(context.WithoutCancel(ctx), func(tx *state.Tx) error {
			clear(named)
			names, err := p.sn().Namespaces(tx)
			if err != nil {
				return err
			}
			for _, ns := range names {
				for s := range p.sn().All(tx, ns) { // of one that cannot be decoded the id is empty or its own
					named[s.ID] = true
				}
			}
			return nil
		})
	}
	for _, id := range p.made.ids {
		if err == nil && !named[id] && !held.Has(lease.Snapshot, string(id)) {
			err = p.sn().Drop(p.d, id)
		}
	}
	return errors.Join(failed, err, l.Release())
}
