// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"sync"
	"unsafe"
)

// Memory keeps the records of one table in one namespace as they were last read, for a server that reads all of them again and again: what
// has not changed is not decoded again. The zero value is ready for use.
type Memory[T any] struct {
	// Name, when set, tells a record that was decoded its key.
	Name func(value *T, key string)

	mu     sync.Mutex
	table  string
	ns     string
	stamps [2]stamp
	rows   []Recalled[T]
	raw    map[string][]byte // by key
}

// Recalled is a record that a Memory may know already. Value and Err must not be changed; they are the same pointer and the same error
// as long as the bytes of the record are the same.
type Recalled[T any] struct {
	Key   string
	Value *T
	Err   error // of kind errdefs.ErrDataLoss: it cannot be decoded
}

// stamp tells two commits of a database apart; that of none is zero.
type stamp struct {
	dev, ino, txid uint64
}

// stamps gives those of both databases as the transaction sees them. With firm it goes on with no others.
func (tx *Tx) stamps(firm bool) (all [2]stamp, err error) {
	for i, durable := range []bool{false, true} {
		if _, err := tx.db(durable); err != nil {
			return all, err
		}
		if v := tx.views[i].view; v != nil {
			v.given = v.given || firm
			all[i] = stamp{v.commit.dev, v.commit.ino, v.meta.txid}
		}
	}
	return all, nil
}

// SameRows tells whether two answers of [Table.Recall] are one: neither database has had a commit between them.
func SameRows[T any](a, b []Recalled[T]) bool {
	return len(a) == len(b) && unsafe.SliceData(a) == unsafe.SliceData(b)
}

// Recall gives the records of a namespace from both databases, in the order of their keys, as [Table.All] does. It is for a [Dir.View].
// As long as no commit comes in between it gives the same slice again, see [SameRows].
func (t Table[T]) Recall(tx *Tx, ns string, m *Memory[T]) ([]Recalled[T], error) {
	if tx.write != nil {
		panic("state: Recall in a transaction that writes")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	same := m.raw != nil && m.table == t.Name && m.ns == ns
	now, err := tx.stamps(false)
	if err == nil && same && now == m.stamps {
		_, err = tx.stamps(true)
		return m.rows, err
	}
	if err != nil {
		return nil, err
	}
	raw, err := t.Raw(tx, ns)
	if err != nil {
		return nil, err
	}
	if now, err = tx.stamps(true); err != nil {
		return nil, err
	}
	was := map[string]Recalled[T]{}
	if same {
		for _, r := range m.rows {
			was[r.Key] = r
		}
	}
	rows, kept := make([]Recalled[T], len(raw)), make(map[string][]byte, len(raw))
	for i, r := range raw {
		if old, ok := was[r.Key]; ok && bytes.Equal(m.raw[r.Key], r.Value) {
			rows[i], kept[r.Key] = old, m.raw[r.Key]
			continue
		}
		v, err := t.Decode(ns, r.Key, r.Value)
		if m.Name != nil {
			m.Name(&v, r.Key)
		}
		rows[i], kept[r.Key] = Recalled[T]{r.Key, &v, err}, bytes.Clone(r.Value)
	}
	m.table, m.ns, m.stamps, m.rows, m.raw = t.Name, ns, now, rows, kept
	return rows, nil
}

// Forget gives up what is kept.
func (m *Memory[T]) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows, m.raw = nil, nil
}
