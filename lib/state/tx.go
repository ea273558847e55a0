// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"slices"

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
	shared          bool // others have written in the same commit
	alone           bool // no other may be in the same commit
	changes         []change
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

// change is one that a transaction has made of its database; old is nil where there was no such record.
type change struct {
	table, ns, key string
	old            []byte
}

// set writes a record.
func (tx *Tx) set(table, ns, key string, data []byte) error {
	top, err := tx.write.CreateBucketIfNotExists([]byte(table))
	if err != nil {
		return err
	}
	b, err := top.CreateBucketIfNotExists([]byte(ns))
	if err != nil {
		return err
	}
	tx.changes = append(tx.changes, change{table, ns, key, b.Get([]byte(key))})
	return b.Put([]byte(key), data)
}

// unset removes a record that is there, and with the last one of a namespace its bucket.
func (tx *Tx) unset(table, ns, key string) error {
	b := writing{tx.write}.bucket(table, ns)
	tx.changes = append(tx.changes, change{table, ns, key, b.Get([]byte(key))})
	if err := b.Delete([]byte(key)); err != nil {
		return err
	}
	if k, _ := b.Cursor().First(); k == nil {
		return tx.write.Bucket([]byte(table)).DeleteBucket([]byte(ns))
	}
	return nil
}

// undo takes all changes back. Others may be in the same transaction.
func (tx *Tx) undo() error {
	all := tx.changes
	for _, c := range slices.Backward(all) {
		var err error
		if c.old != nil {
			err = tx.set(c.table, c.ns, c.key, c.old)
		} else if b := (writing{tx.write}).bucket(c.table, c.ns); b != nil && b.Get([]byte(c.key)) != nil {
			err = tx.unset(c.table, c.ns, c.key)
		}
		if err != nil {
			return fmt.Errorf("undo: %s %q: %w", c.table, c.key, err)
		}
	}
	return nil
}

// close ends the views.
func (tx *Tx) close() {
	for _, v := range tx.views {
		if v.view != nil {
			v.view.close()
		}
	}
}
