// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/state"
)

// Forget removes a record without a look at the others. It is for a collection, which knows that none stands on
// it; see Remove.
func (sn *Snapshotter) Forget(tx *state.Tx, ns, key string) error {
	if err := sn.records().Delete(tx, ns, key); err != nil {
		return err
	}
	tx.Emit(ns, event.SnapshotRemove{Key: key, Snapshotter: sn.Name()})
	return nil
}
