// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/state"
)

// Resize records what the containers of a pod may use together, and what the pod needs besides; nil leaves a value as it is.
// The cgroup of the pod is the kubelet's, which has changed it by then.
func (h Host) Resize(ctx context.Context, id string, overhead, resources *Resources) (err error) {
	for field, r := range inOrder(map[string]*Resources{"overhead": overhead, "resources": resources}) {
		if r == nil {
			continue
		}
		if err := r.check(); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
	}
	s, c, l, err := h.locked(ctx, id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if overhead != nil {
		c.Overhead = overhead
	}
	if resources != nil {
		c.Resources = resources
	}
	if s.Pod, err = json.Marshal(c); err != nil {
		return fmt.Errorf("pod %q: %w", s.ID, err)
	}
	st, err := h.status(s, c)
	if err == nil {
		err = func() error {
			defer h.enter()()
			return h.askPod(ctx, PodUpdate, st)
		}()
	}
	if err != nil {
		return fmt.Errorf("update pod %q: %w", s.ID, err)
	}
	err = h.Dir.Update(ctx, l, func(tx *state.Tx) error {
		_, err := sandbox.Put(tx, h.Namespace, s)
		return err
	})
	if err == nil {
		h.tellPod(ctx, PodUpdated, s, c)
	}
	return err
}
