// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is a struct that is a protobuf message on the wire.
type message interface {
	// append adds the encoding of the message to b.
	append(b []byte) []byte
	// set takes one field; a field it does not know is dropped.
	set(f field) error
}

// field is one field as it came. A known field number with another wire type
// than its own is, as in every protobuf decoder, an unknown field.
type field struct {
	num protowire.Number
	typ protowire.Type
	u   uint64 // of a varint
	b   []byte // of a string, bytes or message: part of the input
}

// decode adds the fields in b to m. What m keeps is copied out of b.
func decode(b []byte, m message) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num > protowire.MaxValidNumber {
			return errMalformed
		}
		b = b[n:]
		f := field{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			f.u, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.b, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		if err := m.set(f); err != nil {
			return err
		}
	}
	return nil
}

// errMalformed stands for protowire's errors: their text varies with the build
// on purpose. Whose fault a bad message is, and so the kind of the error, only
// the caller of decode knows.
var errMalformed = errors.New("malformed message")

// maxMounts bounds what a message of a few bytes a mount can make us allocate.
const maxMounts = 4096

func (f field) string(p *string) error {
	if f.typ != protowire.BytesType {
		return nil
	}
	if !utf8.Valid(f.b) {
		return fmt.Errorf("field %d is not UTF-8", f.num)
	}
	*p = string(f.b)
	return nil
}

func (f field) strings(p *[]string) error {
	if f.typ != protowire.BytesType {
		return nil
	}
	*p = append(*p, "")
	return f.string(&(*p)[len(*p)-1])
}

func (f field) bytes(p *[]byte) error {
	if f.typ == protowire.BytesType {
		*p = append([]byte(nil), f.b...)
	}
	return nil
}

func (f field) uint64(p *uint64) error {
	if f.typ == protowire.VarintType {
		*p = f.u
	}
	return nil
}

func (f field) int64(p *int64) error {
	if f.typ == protowire.VarintType {
		*p = int64(f.u)
	}
	return nil
}

func (f field) uint32(p *uint32) error {
	if f.typ == protowire.VarintType {
		*p = uint32(f.u)
	}
	return nil
}

func (f field) int32(p *int32) error {
	if f.typ == protowire.VarintType {
		*p = int32(f.u)
	}
	return nil
}

func (f field) bool(p *bool) error {
	if f.typ == protowire.VarintType {
		*p = f.u != 0
	}
	return nil
}

// message decodes an embedded message into m; a second one adds to the first,
// as protobuf has it.
func (f field) message(m message) error {
	if f.typ != protowire.BytesType {
		return nil
	}
	return decode(f.b, m)
}

func (f field) any(p **Any) error { return sub(f, p) }

// sub is f.message for a message that may be absent.
func sub[T any, P pointer[T]](f field, p *P) error {
	if f.typ != protowire.BytesType {
		return nil
	}
	if *p == nil {
		*p = new(T)
	}
	return f.message(*p)
}

func (f field) strmap(p *map[string]string) error {
	if f.typ != protowire.BytesType {
		return nil
	}
	var e pair
	if err := f.message(&e); err != nil {
		return err
	}
	if *p == nil {
		*p = make(map[string]string)
	}
	(*p)[e.key] = e.value
	return nil
}

func (f field) mount(p *[]Mount) error {
	if f.typ != protowire.BytesType {
		return nil
	}
	if len(*p) == maxMounts {
		return fmt.Errorf("more than %d mounts", maxMounts)
	}
	*p = append(*p, Mount{})
	return f.message((*mountMessage)(&(*p)[len(*p)-1]))
}

func (f field) time(p *time.Time) error {
	if f.typ != protowire.BytesType {
		return nil
	}
	var ts timestamp
	if !p.IsZero() {
		ts = timestamp{p.Unix(), int32(p.Nanosecond())}
	}
	if err := f.message(&ts); err != nil {
		return err
	}
	*p = time.Unix(ts.seconds, int64(ts.nanos)).UTC()
	return nil
}

// id sets the only field of the requests that have an ID alone.
func (f field) id(p *string) error {
	if f.num == 1 {
		return f.string(p)
	}
	return nil
}

// process sets the fields with which the requests about one process begin.
func (f field) process(id, execID *string) error {
	if f.num == 2 {
		return f.string(execID)
	}
	return f.id(id)
}

// only sets the field of a message that has the one.
func (f field) only(num protowire.Number, p *uint32) error {
	if f.num == num {
		return f.uint32(p)
	}
	return nil
}

func putString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendString(b, s)
}

func putBytes(b []byte, num protowire.Number, s []byte) []byte {
	if len(s) == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendBytes(b, s)
}

func putUint(b []byte, num protowire.Number, u uint64) []byte {
	if u == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.VarintType)
	return protowire.AppendVarint(b, u)
}

func putBool(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return putUint(b, num, 1)
}

// putMessage writes m even when it is empty: its presence is information.
func putMessage(b []byte, num protowire.Number, m message) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendBytes(b, m.append(nil))
}

func putAny(b []byte, num protowire.Number, a *Any) []byte {
	if a == nil {
		return b
	}
	return putMessage(b, num, a)
}

func putStrings(b []byte, num protowire.Number, all []string) []byte {
	for _, s := range all {
		b = protowire.AppendTag(b, num, protowire.BytesType)
		b = protowire.AppendString(b, s)
	}
	return b
}

func putMounts(b []byte, num protowire.Number, all []Mount) []byte {
	for i := range all {
		b = putMessage(b, num, (*mountMessage)(&all[i]))
	}
	return b
}

func putMap(b []byte, num protowire.Number, m map[string]string) []byte {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = putMessage(b, num, &pair{k, m[k]})
	}
	return b
}

func putTime(b []byte, num protowire.Number, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return putMessage(b, num, &timestamp{t.Unix(), int32(t.Nanosecond())})
}

func putProcess(b []byte, id, execID string) []byte {
	b = putString(b, 1, id)
	return putString(b, 2, execID)
}

// timestamp is google.protobuf.Timestamp.
type timestamp struct {
	seconds int64
	nanos   int32
}

func (m *timestamp) append(b []byte) []byte {
	b = putUint(b, 1, uint64(m.seconds))
	return putUint(b, 2, uint64(int64(m.nanos)))
}

func (m *timestamp) set(f field) error {
	switch f.num {
	case 1:
		return f.int64(&m.seconds)
	case 2:
		return f.int32(&m.nanos)
	}
	return nil
}

// pair is a map entry, and ttrpc's KeyValue.
type pair struct{ key, value string }

func (m *pair) append(b []byte) []byte {
	b = putString(b, 1, m.key)
	return putString(b, 2, m.value)
}

func (m *pair) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.key)
	case 2:
		return f.string(&m.value)
	}
	return nil
}
