// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"sync"

	"ctrd.dev/ctrd/lib/event"
)

// RecordEnds has the ends of containers below shims of others recorded, and so told by the journal, as they happen, until ctx
// ends. Such a shim writes nothing down and tells who asks; without this the next act on a container does.
func (h Host) RecordEnds(ctx context.Context) error {
	journal := h.Dir.Journal()
	since, err := journal.Last()
	if err != nil {
		return err
	}
	all, err := h.ListContainers(ctx)
	if err != nil {
		return err
	}
	var waits sync.WaitGroup
	defer waits.Wait()
	await := func(id string) {
		waits.Go(func() {
			if t, err := h.Open(ctx, id); err == nil {
				defer t.Close()
				_ = t.AwaitForeign(ctx) // what cannot be waited for is asked by the next act
			}
		})
	}
	for _, c := range all {
		if c.State == Running {
			await(c.ID)
		}
	}
	for e, err := range journal.Read(ctx, since, true) {
		if err != nil {
			return err
		}
		if started, ok := event.Decode[event.TaskStart](e); ok && e.Namespace == h.Namespace {
			await(started.ContainerID)
		}
	}
	return nil
}
