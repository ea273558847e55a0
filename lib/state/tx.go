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
	events          []pending
}

type pending struct {
	ns      string
	payload event.Payload
}

// Dir is the state directory of this transaction.
func (tx *Tx) Dir() *Dir { return tx.d }

// Durable tells whether what this transaction writes outlives the boot.
func (tx *Tx) Durable() bool { return tx.durable }

// Emit appends an event to the journal when the transaction has been committed.
func (tx *Tx) Emit(ns string, p event.Payload) {
	tx.events = append(tx.events, pending{ns, p})
}

// publish appends what Emit collected, in order. The change is committed by now, so a journal that
// cannot be written (its tmpfs is full) must not make it look undone: see the crash rules of lib/event.
func (tx *Tx) publish() {
	j := tx.d.Journal()
	for len(tx.events) > 0 {
		n := 1
		for n < len(tx.events) && tx.events[n].ns == tx.events[0].ns {
			n++
		}
		payloads := make([]event.Payload, n)
		for i, e := range tx.events[:n] {
			payloads[i] = e.payload
		}
		_ = j.Append(tx.events[0].ns, payloads...)
		tx.events = tx.events[n:]
	}
}

// db gives the transaction on meta.db (durable) or run.db: the writing one, or a copy opened at the
// first use. It is nil when that database does not exist yet.
func (tx *Tx) db(durable bool) (*bolt.Tx, error) {
	if tx.write != nil && tx.durable == durable {
		return tx.write, nil
	}
	i := 0
	if durable {
		i = 1
	}
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
