// SPDX-License-Identifier: Apache-2.0

package snapshotapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"ctrd.dev/ctrd/lib/mount"
)

// Kind is what a snapshot is for.
type Kind int

// The kinds, as the API numbers them.
const (
	View      Kind = 1
	Active    Kind = 2
	Committed Kind = 3
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case View:
		return "view"
	case Active:
		return "active"
	case Committed:
		return "committed"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Info is what a server says of a snapshot.
type Info struct {
	Name, Parent string
	Kind         Kind
	Labels       map[string]string
}

const (
	// maxMounts bounds the mounts of a snapshot.
	maxMounts = 1024
	// maxLabels bounds the labels of a snapshot.
	maxLabels = 4096
	// maxInfos bounds a list.
	maxInfos = 1000
)

// Prepare makes an active snapshot, on a committed one or on none, and tells how to mount it.
func (c *Client) Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	return c.mounts(ctx, "Prepare", c.request(pair(key, parent), labels))
}

// View makes a view of a committed snapshot, and tells how to mount it.
func (c *Client) View(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	return c.mounts(ctx, "View", c.request(pair(key, parent), labels))
}

// Mounts tells how to mount a snapshot that is not committed.
func (c *Client) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return c.mounts(ctx, "Mounts", c.request(pair(key, ""), nil))
}

// Commit makes of the active snapshot key the committed snapshot name.
func (c *Client) Commit(ctx context.Context, name, key string, labels map[string]string) error {
	return c.call(ctx, "Commit", c.request(pair(name, key), labels), ignore)
}

// Remove removes a snapshot that no other stands on.
func (c *Client) Remove(ctx context.Context, key string) error {
	return c.call(ctx, "Remove", c.request(pair(key, ""), nil), ignore)
}

// Cleanup has the server remove what it has put off of earlier removals.
func (c *Client) Cleanup(ctx context.Context) error {
	return c.call(ctx, "Cleanup", c.request(nil, nil), ignore)
}

// Stat tells of a snapshot.
func (c *Client) Stat(ctx context.Context, key string) (i Info, err error) {
	answered := false
	err = c.call(ctx, "Stat", c.request(pair(key, ""), nil), func(b []byte) error {
		return fields(b, func(num protowire.Number, v value) (err error) {
			if num == 1 {
				answered = true
				err = i.decode(v.bytes)
			}
			return err
		})
	})
	if err == nil && !answered {
		err = &ServerError{c.Address, "Stat", protocolError("an answer without a snapshot")}
	}
	return i, err
}

// Usage tells what a snapshot occupies by itself.
func (c *Client) Usage(ctx context.Context, key string) (size, inodes int64, err error) {
	err = c.call(ctx, "Usage", c.request(pair(key, ""), nil), func(b []byte) error {
		return fields(b, func(num protowire.Number, v value) error {
			switch num {
			case 1:
				size = int64(v.number)
			case 2:
				inodes = int64(v.number)
			}
			if size < 0 || inodes < 0 {
				return errors.New("it says that a snapshot occupies less than nothing")
			}
			return nil
		})
	})
	return size, inodes, err
}

// List gives the snapshots that a filter in containerd's syntax fits.
func (c *Client) List(ctx context.Context, filter string) (all []Info, err error) {
	err = c.call(ctx, "List", c.request(pair(filter, ""), nil), func(b []byte) error {
		return fields(b, func(num protowire.Number, v value) error {
			if num != 1 {
				return nil
			}
			var i Info
			if err := i.decode(v.bytes); err != nil {
				return err
			}
			if all = append(all, i); len(all) > maxInfos {
				return fmt.Errorf("it lists more than %d snapshots", maxInfos)
			}
			return nil
		})
	})
	return all, err
}

func ignore([]byte) error { return nil }

// pair is the two texts behind the name of the snapshotter; an empty one is left out.
func pair(a, b string) []string { return []string{a, b} }

// request encodes a message: all requests begin with the name of the snapshotter, and texts follow. Labels are the fourth.
func (c *Client) request(texts []string, labels map[string]string) []byte {
	var b []byte
	put := func(to []byte, num protowire.Number, s string) []byte {
		if s == "" {
			return to
		}
		return protowire.AppendString(protowire.AppendTag(to, num, protowire.BytesType), s)
	}
	b = put(b, 1, c.Snapshotter)
	for i, s := range texts {
		b = put(b, protowire.Number(2+i), s)
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b = protowire.AppendTag(b, 4, protowire.BytesType)
		b = protowire.AppendBytes(b, put(put(nil, 1, k), 2, labels[k]))
	}
	return b
}

func (c *Client) mounts(ctx context.Context, method string, request []byte) (all []mount.Mount, err error) {
	err = c.call(ctx, method, request, func(b []byte) error {
		return fields(b, func(num protowire.Number, v value) error {
			if num != 1 {
				return nil
			}
			m, err := decodeMount(v.bytes)
			if err != nil {
				return err
			}
			if all = append(all, m); len(all) > maxMounts {
				return fmt.Errorf("it gives more than %d mounts", maxMounts)
			}
			return nil
		})
	})
	return all, err
}

func decodeMount(b []byte) (m mount.Mount, err error) {
	err = fields(b, func(num protowire.Number, v value) (err error) {
		switch num {
		case 1:
			m.Type, err = v.text()
		case 2:
			m.Source, err = v.text()
		case 3:
			m.Target, err = v.text()
		case 4:
			var o string
			if o, err = v.text(); len(m.Options) == maxMounts {
				return fmt.Errorf("a mount has more than %d options", maxMounts)
			}
			m.Options = append(m.Options, o)
		}
		return err
	})
	return m, err
}

func (i *Info) decode(b []byte) error {
	return fields(b, func(num protowire.Number, v value) (err error) {
		switch num {
		case 1:
			i.Name, err = v.text()
		case 2:
			i.Parent, err = v.text()
		case 3:
			i.Kind = Kind(int32(v.number))
		case 6:
			err = i.label(v.bytes)
		}
		return err
	})
}

func (i *Info) label(b []byte) error {
	var key, val string
	err := fields(b, func(num protowire.Number, v value) (err error) {
		switch num {
		case 1:
			key, err = v.text()
		case 2:
			val, err = v.text()
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(i.Labels) == maxLabels {
		return fmt.Errorf("a snapshot has more than %d labels", maxLabels)
	}
	if i.Labels == nil {
		i.Labels = map[string]string{}
	}
	i.Labels[key] = val
	return nil
}

// value is that of one field: a varint or bytes, the other is empty.
type value struct {
	number uint64
	bytes  []byte
}

func (v value) text() (string, error) {
	if !utf8.Valid(v.bytes) {
		return "", errors.New("a text that is not UTF-8")
	}
	return string(v.bytes), nil
}

// errMalformed stands for protowire's errors, whose text varies with the build on purpose.
var errMalformed = errors.New("a message that is malformed")

// fields tells the varints and the bytes of a message. Others are no part of this API.
func fields(b []byte, tell func(protowire.Number, value) error) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		var v value
		switch kind {
		case protowire.VarintType:
			v.number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, kind, b)
		}
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		if kind != protowire.VarintType && kind != protowire.BytesType {
			continue
		}
		if err := tell(num, v); err != nil {
			return err
		}
	}
	return nil
}
