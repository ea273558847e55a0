// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/state"
)

// Rename gives an active snapshot or a view another key. A committed one, which others may stand on, is
// errdefs.ErrFailedPrecondition; a key that is taken is errdefs.ErrAlreadyExists.
func (sn *Snapshotter) Rename(tx *state.Tx, ns, from, to string) error {
	s, err := sn.Get(tx, ns, from)
	if err != nil {
		return err
	}
	if s.Kind == Committed {
		return fmt.Errorf("rename snapshot %q: it is committed: %w", from, errdefs.ErrFailedPrecondition)
	}
	s.Key = to
	if err := sn.records().Move(tx, ns, from, to, s); err != nil {
		return err
	}
	tx.Emit(ns, event.SnapshotRemove{Key: from, Snapshotter: sn.Name()})
	tx.Emit(ns, event.SnapshotPrepare{Key: to, Parent: s.Parent, Snapshotter: sn.Name()})
	return nil
}
