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
	// fields calls the method of c that fits for each of its fields, with the
	// number and a pointer. The order is that of the encoding.
	fields(c *codec)
}

// codec goes through the fields of a message. It either adds each to out, or
// looks for the one that in is, and stores that. A field that the message does
// not have is dropped; so is one with another wire type than its own, as in
// every protobuf decoder.
type codec struct {
	out []byte
	in  *field
	err error // of in
}

// field is one field as it came.
type field struct {
	num protowire.Number
	typ protowire.Type
	u   uint64 // of a varint
	b   []byte // of a string, bytes or message: part of the input
}

// encode adds the encoding of m to b.
func encode(b []byte, m message) []byte {
	c := codec{out: b}
	m.fields(&c)
	return c.out
}

// decode adds the fields in b to m. What m keeps is copied out of b.
func decode(b []byte, m message) error {
	c := codec{in: new(field)}
	c.decode(b, m)
	return c.err
}

func (c *codec) decode(b []byte, m message) {
	for len(b) > 0 && c.err == nil {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num > protowire.MaxValidNumber {
			c.fail(errMalformed)
			return
		}
		b = b[n:]
		*c.in = field{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			c.in.u, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			c.in.b, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			c.fail(errMalformed)
			return
		}
		b = b[n:]
		m.fields(c)
	}
}

// errMalformed stands for protowire's errors: their text varies with the build
// on purpose. Whose fault a bad message is, and so the kind of the error, only
// the caller of decode knows.
var errMalformed = errors.New("malformed message")

// maxMounts bounds what a message of a few bytes a mount can make us allocate.
const maxMounts = 4096

// is tells whether the field to store is that one. It never is while writing.
func (c *codec) is(num protowire.Number, typ protowire.Type) bool {
	return c.in != nil && c.in.num == num && c.in.typ == typ && c.err == nil
}

// fail notes the error of the field to store.
func (c *codec) fail(err error) {
	if err != nil && c.err == nil {
		c.err = err
	}
}

func (c *codec) string(num protowire.Number, p *string) {
	if c.in == nil && *p != "" {
		c.put(num, *p)
	} else if c.is(num, protowire.BytesType) {
		c.take(p)
	}
}

func (c *codec) strings(num protowire.Number, p *[]string) {
	if c.in == nil {
		for _, s := range *p {
			c.put(num, s)
		}
	} else if c.is(num, protowire.BytesType) {
		var s string
		c.take(&s)
		*p = append(*p, s)
	}
}

func (c *codec) put(num protowire.Number, s string) {
	c.out = protowire.AppendTag(c.out, num, protowire.BytesType)
	c.out = protowire.AppendString(c.out, s)
}

func (c *codec) take(p *string) {
	if !utf8.Valid(c.in.b) {
		c.fail(fmt.Errorf("field %d is not UTF-8", c.in.num))
		return
	}
	*p = string(c.in.b)
}

func (c *codec) bytes(num protowire.Number, p *[]byte) {
	c.part(num, p)
	if c.is(num, protowire.BytesType) {
		*p = slices.Clone(*p)
	}
}

// part is bytes that stay a part of what they are decoded from.
func (c *codec) part(num protowire.Number, p *[]byte) {
	if c.in == nil && len(*p) > 0 {
		c.out = protowire.AppendTag(c.out, num, protowire.BytesType)
		c.out = protowire.AppendBytes(c.out, *p)
	} else if c.is(num, protowire.BytesType) {
		*p = c.in.b
	}
}

// number is a varint. A negative one is sign-extended to ten bytes on the wire.
func number[T ~int | ~int32 | ~int64 | ~uint32 | ~uint64](c *codec, num protowire.Number, p *T) {
	if c.in == nil && *p != 0 {
		c.out = protowire.AppendTag(c.out, num, protowire.VarintType)
		c.out = protowire.AppendVarint(c.out, uint64(*p))
	} else if c.is(num, protowire.VarintType) {
		*p = T(c.in.u)
	}
}

func (c *codec) uint64(num protowire.Number, p *uint64) { number(c, num, p) }
func (c *codec) uint32(num protowire.Number, p *uint32) { number(c, num, p) }
func (c *codec) int64(num protowire.Number, p *int64)   { number(c, num, p) }
func (c *codec) int32(num protowire.Number, p *int32)   { number(c, num, p) }

func (c *codec) bool(num protowire.Number, p *bool) {
	if c.in == nil && *p {
		c.out = protowire.AppendTag(c.out, num, protowire.VarintType)
		c.out = protowire.AppendVarint(c.out, 1)
	} else if c.is(num, protowire.VarintType) {
		*p = c.in.u != 0
	}
}

// message is an embedded message. It is written even when it is empty: its
// presence is information. A second one adds to the first, as protobuf has it.
func (c *codec) message(num protowire.Number, m message) {
	if c.in == nil {
		c.out = protowire.AppendTag(c.out, num, protowire.BytesType)
		c.out = protowire.AppendBytes(c.out, encode(nil, m))
	} else if c.is(num, protowire.BytesType) {
		outer := *c.in
		c.decode(outer.b, m)
		*c.in = outer
	}
}

// optional is c.message for a message that may be absent.
func optional[T any, P pointer[T]](c *codec, num protowire.Number, p *P) {
	if c.is(num, protowire.BytesType) && *p == nil {
		*p = new(T)
	}
	if *p != nil {
		c.message(num, *p)
	}
}

func (c *codec) any(num protowire.Number, p **Any) { optional(c, num, p) }

// repeated is a list of messages; wire is the form of one on the wire. It holds
// at most a number of them, where that is not 0.
func repeated[T any](c *codec, num protowire.Number, p *[]T, most int, wire func(*T) message) {
	if c.in == nil {
		for i := range *p {
			c.message(num, wire(&(*p)[i]))
		}
	} else if c.is(num, protowire.BytesType) {
		if most > 0 && len(*p) == most {
			c.fail(fmt.Errorf("field %d is there more than %d times", num, most))
			return
		}
		*p = append(*p, *new(T))
		c.message(num, wire(&(*p)[len(*p)-1]))
	}
}

func (c *codec) mounts(num protowire.Number, p *[]Mount) {
	repeated(c, num, p, maxMounts, func(m *Mount) message { return (*mountMessage)(m) })
}

func (c *codec) strmap(num protowire.Number, p *map[string]string) {
	if c.in == nil {
		for _, k := range slices.Sorted(maps.Keys(*p)) {
			c.message(num, &pair{k, (*p)[k]})
		}
	} else if c.is(num, protowire.BytesType) {
		var e pair
		c.message(num, &e)
		if c.err != nil {
			return
		}
		if *p == nil {
			*p = make(map[string]string)
		}
		(*p)[e.key] = e.value
	}
}

func (c *codec) time(num protowire.Number, p *time.Time) {
	if c.in == nil && p.IsZero() || c.in != nil && !c.is(num, protowire.BytesType) {
		return
	}
	var ts timestamp
	if !p.IsZero() {
		ts = timestamp{p.Unix(), int32(p.Nanosecond())}
	}
	if c.message(num, &ts); c.in != nil && c.err == nil {
		*p = time.Unix(ts.seconds, int64(ts.nanos)).UTC()
	}
}

// process is the two fields with which the requests about one process begin.
func (c *codec) process(id, execID *string) {
	c.string(1, id)
	c.string(2, execID)
}

// timestamp is google.protobuf.Timestamp.
type timestamp struct {
	seconds int64
	nanos   int32
}

func (m *timestamp) fields(c *codec) {
	c.int64(1, &m.seconds)
	c.int32(2, &m.nanos)
}

// pair is a map entry, and ttrpc's KeyValue.
type pair struct{ key, value string }

func (m *pair) fields(c *codec) {
	c.string(1, &m.key)
	c.string(2, &m.value)
}
