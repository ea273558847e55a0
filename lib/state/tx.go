// SPDX-License-Identifier: Apache-2.0

package state

import (
	bolt "go.etcd.io/bbolt"

	"ctrd.dev/ctrd/lib/event"
)

// Tx is one transaction: it reads both databases and writes at most one. It must not be kept after the
// function it was given to returns.
type Tx struct {
	d       *Dir
	write   *bolt.Tx // nil in a View
	durable bool     // write is meta.db
	whole   bool     // read copies
	early   bool     // the views move when something was read of them
	views   [2]struct {
		*view
		opened bool
	}
	writes, removes int
	events          []event.Entry
}

// Dir is the state directory of this transaction.
func (tx *Tx) Dir() *Dir { return tx.d }

// Durable tells whether what this transaction writes outlives the boot.
func (tx *Tx) Durable() bool { return tx.durable }

// Emit appends an event to the journal when the transaction has been committed.
func (tx *Tx) Emit(ns string, p event.Payload) {
	tx.events = append(tx.events, event.Entry{Namespace: ns, Payload: p})
}

// db gives meta.db (durable) or run.db: what is written, or a view that begins with its first use. It is nil when
// that database does not exist yet.
func (tx *Tx) db(durable bool) (records, error) {
	if tx.write != nil && tx.durable == durable {
		return writing{tx.write}, nil
	}
	v := &tx.views[side(durable)]
	if !v.opened {
		opened, err := tx.d.openView(durable, tx.whole)
		if err != nil {
			return nil, err
		}
		if opened != nil {
			opened.early = tx.early
		}
		v.view, v.opened = opened, true
	}
	if v.view == nil {
		return nil, nil
	}
	return v.view, nil
}

// readable lists the databases to look things up in, the one that is written first.
func (tx *Tx) readable() ([]records, error) {
	var all []records
	for _, durable := range []bool{tx.durable, !tx.durable} {
		db, err := tx.db(durable)
		if err != nil {
			return nil, err
		}
		if db != nil {
			all = append(all, db)
		}
	}
	return all, nil
}

// moved tells whether a database has changed while it was read, so that the transaction must begin again.
func (tx *Tx) moved() bool {
	for _, v := range tx.views {
		if v.view != nil && v.view.moved {
			return true
		}
	}
	return false
}

// close ends the views.
func (tx *Tx) close() {
	for _, v := range tx.views {
		if v.view != nil {
			v.view.close()
		}
	}
}
