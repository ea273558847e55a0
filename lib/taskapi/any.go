// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Marshal gives the protobuf encoding of m, a pointer to any message of this
// package.
func Marshal(m message) []byte { return encode(nil, m) }

// Unmarshal decodes b into m, a pointer to a zero message of this package.
// Fields that the message does not have are dropped. Bytes that are not a
// message of that kind, or more than 4 MiB of them, are
// errdefs.ErrInvalidArgument; m then holds a part of them.
func Unmarshal(b []byte, m message) error {
	if len(b) > maxMessage {
		return fmt.Errorf("decode %T: more than %d bytes: %w", m, maxMessage, errdefs.ErrInvalidArgument)
	}
	if err := decode(b, m); err != nil {
		return fmt.Errorf("decode %T: %w: %w", m, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// typed is a message that travels in an Any.
type typed interface {
	message
	// typeName is the full name of its protobuf type.
	typeName() string
}

// NewAny packs m, a pointer to a message that has a protobuf type name of its
// own: options, features of a shim, events. The type URL is the bare name, as
// in containerd's typeurl package.
func NewAny(m typed) *Any { return &Any{TypeURL: m.typeName(), Value: Marshal(m)} }

// Is tells whether a holds a message of the protobuf type name. Whatever stands
// before a slash in the type URL does not count, and nil holds no message.
func (a *Any) Is(name string) bool {
	return a != nil && a.TypeURL[strings.LastIndexByte(a.TypeURL, '/')+1:] == name
}

// To decodes the value of a into m, a pointer to a zero message. An Any of
// another type, nil too, is errdefs.ErrNotFound; a value that is not a message
// of that type is errdefs.ErrInvalidArgument.
func (a *Any) To(m typed) error {
	if !a.Is(m.typeName()) {
		url := ""
		if a != nil {
			url = a.TypeURL
		}
		return fmt.Errorf("%.200q is no %s: %w", url, m.typeName(), errdefs.ErrNotFound)
	}
	return Unmarshal(a.Value, m)
}
