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
	copies  [2]struct {
		tx     *bolt.Tx
		end    func()
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

// db gives the transaction on meta.db (durable) or run.db: the writing one, or a copy opened at the
// first use. It is nil when that database does not exist yet.
func (tx *Tx) db(durable bool) (*bolt.Tx, error) {
	if tx.write != nil && tx.durable == durable {
		return tx.write, nil
	}
	i := side(durable)
	c := &tx.copies[i]
	if !c.opened {
		t, end, err := tx.d.snapshots.begin(i, tx.d.dbPath(durable))
		if err != nil {
			return nil, err
		}
		c.tx, c.end, c.opened = t, end, true
	}
	return c.tx, nil
}

// readable lists the transactions to look things up in, the one that writes first.
func (tx *Tx) readable() ([]*bolt.Tx, error) {
	var all []*bolt.Tx
	for _, durable := range []bool{tx.durable, !tx.durable} {
		t, err := tx.db(durable)
		if err != nil {
			return nil, err
		}
		if t != nil {
			all = append(all, t)
		}
	}
	return all, nil
}

func (tx *Tx) close() {
	for _, c := range tx.copies {
		if c.end != nil {
			c.end()
		}
	}
}
