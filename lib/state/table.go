// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// A Table is one kind of record: bucket Name / bucket namespace / key -> JSON of a T. A record lives in
// meta.db or in run.db; one key must not be in both.
type Table[T any] struct{ Name string }

// Get reads one record from either database. It is errdefs.ErrNotFound when there is none, and
// errdefs.ErrDataLoss when it cannot be decoded.
func (t Table[T]) Get(tx *Tx, ns, key string) (T, error) {
	var zero T
	dbs, err := tx.readable()
	if err != nil {
		return zero, err
	}
	for _, db := range dbs {
		if data, err := db.get(t.Name, ns, key); err != nil {
			return zero, err
		} else if data != nil {
			return t.Decode(ns, key, data)
		}
	}
	return zero, fmt.Errorf("%s %q in namespace %q: %w", t.singular(), key, ns, errdefs.ErrNotFound)
}

// Some reads the records of several keys at once, for less than a Get of each. It gives them in the order of keys, nil for each
// that is not there.
func (t Table[T]) Some(tx *Tx, ns string, keys []string) ([]*T, error) {
	dbs, err := tx.readable()
	if err != nil {
		return nil, err
	}
	found := make([]*T, len(keys))
	for _, db := range dbs {
		all, err := db.some(t.Name, ns, keys)
		if err != nil {
			return nil, err
		}
		for i, data := range all {
			if data == nil || found[i] != nil {
				continue
			}
			v, err := t.Decode(ns, keys[i], data)
			if err != nil {
				return nil, err
			}
			found[i] = &v
		}
	}
	return found, nil
}

// Put writes one record into the database that tx writes. Fields of an older record that this program
// does not know are kept.
func (t Table[T]) Put(tx *Tx, ns, key string, v T) error {
	if key == "" || ns == "" {
		return fmt.Errorf("%s without a name: %w", t.singular(), errdefs.ErrInvalidArgument)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s %q: %w", t.singular(), key, err)
	}
	if b := t.bucket(tx, ns); b != nil {
		if old := b.Get([]byte(key)); old != nil {
			if data, err = keepUnknown[T](old, data); err != nil {
				return fmt.Errorf("%s %q: %w", t.singular(), key, err)
			}
		}
	}
	return t.put(tx, ns, key, data)
}

func (t Table[T]) put(tx *Tx, ns, key string, data []byte) error {
	tx.writes++
	if err := tx.set(t.Name, ns, key, data); err != nil {
		return fmt.Errorf("%s %q in namespace %q: %w", t.singular(), key, ns, err)
	}
	return nil
}

// Move replaces the record from by v under the key to, and keeps the fields of from that this program does not know.
// Both are in the database that tx writes. It is errdefs.ErrNotFound when there is no from, and
// errdefs.ErrAlreadyExists when there is a to in either database.
func (t Table[T]) Move(tx *Tx, ns, from, to string, v T) error {
	b := t.bucket(tx, ns)
	if b == nil || b.Get([]byte(from)) == nil {
		return fmt.Errorf("%s %q in namespace %q: %w", t.singular(), from, ns, errdefs.ErrNotFound)
	}
	if to == "" {
		return fmt.Errorf("%s without a name: %w", t.singular(), errdefs.ErrInvalidArgument)
	}
	for _, durable := range []bool{true, false} {
		if taken, err := t.Has(tx, durable, ns, to); err != nil {
			return err
		} else if taken {
			return fmt.Errorf("%s %q in namespace %q: %w", t.singular(), to, ns, errdefs.ErrAlreadyExists)
		}
	}
	data, err := json.Marshal(v)
	if err == nil {
		data, err = keepUnknown[T](b.Get([]byte(from)), data)
	}
	if err != nil {
		return fmt.Errorf("%s %q: %w", t.singular(), to, err)
	}
	if err := t.put(tx, ns, to, data); err != nil {
		return err
	}
	if err := tx.unset(t.Name, ns, from); err != nil {
		return fmt.Errorf("%s %q: %w", t.singular(), from, err)
	}
	return nil
}

// Delete removes one record from the database that tx writes. It is errdefs.ErrNotFound when that
// database has none.
func (t Table[T]) Delete(tx *Tx, ns, key string) error {
	b := t.bucket(tx, ns)
	if b == nil || b.Get([]byte(key)) == nil {
		return fmt.Errorf("%s %q in namespace %q: %w", t.singular(), key, ns, errdefs.ErrNotFound)
	}
	tx.removes++
	if err := tx.unset(t.Name, ns, key); err != nil {
		return fmt.Errorf("%s %q: %w", t.singular(), key, err)
	}
	return nil
}

// Has tells whether the database that outlives the boot (durable) or the other one has the key.
func (t Table[T]) Has(tx *Tx, durable bool, ns, key string) (bool, error) {
	db, err := tx.db(durable)
	if err != nil || db == nil {
		return false, err
	}
	data, err := db.get(t.Name, ns, key)
	return data != nil, err
}

// All yields the records of a namespace from both databases, in the order of their keys. A record that
// cannot be decoded is yielded with an error, and the walk goes on if the caller does.
func (t Table[T]) All(tx *Tx, ns string) iter.Seq2[Row[T], error] {
	return func(yield func(Row[T], error) bool) {
		rows, err := t.Raw(tx, ns)
		if err != nil {
			yield(Row[T]{}, err)
			return
		}
		for _, r := range rows {
			v, err := t.Decode(ns, r.Key, r.Value)
			if !yield(Row[T]{r.Key, v}, err) {
				return
			}
		}
	}
}

// Raw gives the records of a namespace from both databases as they are there, in the order of their keys. Decode makes records of them.
// Two of the same bytes are the same record. The bytes must not be changed, and keep others in memory that were read with them.
func (t Table[T]) Raw(tx *Tx, ns string) ([]Row[[]byte], error) {
	dbs, err := tx.readable()
	if err != nil {
		return nil, err
	}
	var rows []Row[[]byte]
	for _, db := range dbs {
		some, err := db.all(t.Name, ns)
		if err != nil {
			return nil, err
		}
		for _, e := range some {
			if !e.bucket {
				rows = append(rows, Row[[]byte]{string(e.key), e.value})
			}
		}
	}
	slices.SortStableFunc(rows, func(a, b Row[[]byte]) int { return strings.Compare(a.Key, b.Key) })
	return rows, nil
}

// Row is one record with its key.
type Row[T any] struct {
	Key   string
	Value T
}

// Namespaces lists the namespaces that have such a record, in order.
func (t Table[T]) Namespaces(tx *Tx) ([]string, error) {
	dbs, err := tx.readable()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, db := range dbs {
		some, err := db.namespaces(t.Name)
		if err != nil {
			return nil, err
		}
		names = append(names, some...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// bucket is where the database that tx writes has the records of a namespace; nil where it has none.
func (t Table[T]) bucket(tx *Tx, ns string) *bolt.Bucket { return writing{tx.write}.bucket(t.Name, ns) }

// Decode gives the record that its bytes are. It is errdefs.ErrDataLoss when they are none.
func (t Table[T]) Decode(ns, key string, data []byte) (T, error) {
	var v T
	err := t.DecodeTo(&v, ns, key, data)
	return v, err
}

// DecodeTo is Decode to a zero value that is there.
func (t Table[T]) DecodeTo(v *T, ns, key string, data []byte) error {
	if b, ok := any(v).(*[]byte); ok && plainBase64(data, b) {
		return nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return &RecordError{t.singular(), ns, key, bytes.Clone(data), err}
	}
	return nil
}

// plainBase64 decodes the JSON of bytes as this program writes it, many times faster than encoding/json; it leaves to that what
// has another form.
func plainBase64(data []byte, b *[]byte) bool {
	n := len(data)
	if n < 2 || data[0] != '"' || data[n-1] != '"' {
		return false
	}
	var err error
	*b, err = base64.StdEncoding.AppendDecode(make([]byte, 0, base64.StdEncoding.DecodedLen(n-2)), data[1:n-1])
	return err == nil
}

// singular is the table's name as messages use it: images -> image, snapshots/overlayfs -> snapshot.
func (t Table[T]) singular() string {
	name, _, _ := strings.Cut(t.Name, "/")
	return strings.TrimSuffix(name, "s")
}

// keepUnknown copies into data, the JSON object of a new T, the top-level fields of old that T lacks.
func keepUnknown[T any](old, data []byte) ([]byte, error) {
	var was, is map[string]json.RawMessage
	if json.Unmarshal(old, &was) != nil {
		return data, nil // a damaged record is replaced whole
	}
	known := fieldNames(reflect.TypeFor[T]())
	if known == nil {
		return data, nil
	}
	for name := range known {
		delete(was, name)
	}
	if len(was) == 0 {
		return data, nil
	}
	if err := json.Unmarshal(data, &is); err != nil {
		return nil, errors.New("record is no JSON object")
	}
	for name, v := range was {
		if _, ok := is[name]; !ok {
			is[name] = v
		}
	}
	return json.Marshal(is)
}

// fieldNames lists the JSON names of a struct's fields; nil for anything that is not a struct.
func fieldNames(t reflect.Type) map[string]bool {
	if t.Kind() != reflect.Struct {
		return nil
	}
	names := map[string]bool{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			for n := range fieldNames(f.Type) {
				names[n] = true
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		names[name] = true
	}
	return names
}
