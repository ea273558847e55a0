// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Bootstrap is what a shim says on its stdout when it has been started: the
// socket of its server, the version of the task API and the protocol there. Up
// to containerd 1.6 that is the bare address, up to 2.2 a JSON object, since
// then a protobuf message (containerd's docs/runtime-v2.md and
// api/runtime/bootstrap/v1). Of the message, capabilities, which nobody
// defines yet, and metadata are dropped.
type Bootstrap struct {
	Version    int    `json:"version"`  // of the task API: 2 or 3
	Address    string `json:"address"`  // unix:///path
	Protocol   string `json:"protocol"` // ttrpc
	Extensions []Any  `json:"-"`        // MountCapabilities may be there
}

// maxBootstrap bounds what a shim may say, in bytes.
const maxBootstrap = 64 << 10

// ParseBootstrap reads what a shim says, in any of the three forms. A protocol
// other than ttrpc and a version other than 2 and 3 are
// errdefs.ErrNotImplemented; anything else, and more than 64 KiB, is
// errdefs.ErrInvalidArgument, with an error that quotes the beginning.
func ParseBootstrap(b []byte) (Bootstrap, error) {
	var s Bootstrap
	text := bytes.TrimSpace(b)
	switch {
	case len(text) == 0:
		return s, fmt.Errorf("it said nothing: %w", errdefs.ErrInvalidArgument)
	case len(b) > maxBootstrap:
		return s, fmt.Errorf("it said more than %d bytes: %w", maxBootstrap, errdefs.ErrInvalidArgument)
	case text[0] == '{':
		// Some shims leave out what is a matter of course.
		s.Version, s.Protocol = 2, protocol
		if err := json.Unmarshal(text, &s); err != nil {
			return s, fmt.Errorf("it said %.100q: %w: %w", b, err, errdefs.ErrInvalidArgument)
		}
	case bytes.HasPrefix(text, []byte("unix:")):
		s = Bootstrap{Version: 2, Protocol: protocol, Address: string(text)}
	default:
		// No field of the message makes it begin like one of the texts.
		if err := decode(b, (*bootstrapMessage)(&s)); err != nil || s.Address == "" {
			return s, fmt.Errorf("it said %.100q, not where it listens: %w", b, errdefs.ErrInvalidArgument)
		}
	}
	return s, s.check()
}

// protocol is the only one that is spoken here.
const protocol = "ttrpc"

func (s *Bootstrap) check() error {
	switch s.Protocol = strings.ToLower(s.Protocol); s.Protocol {
	case "":
		s.Protocol = protocol
	case protocol:
	default:
		return fmt.Errorf("it speaks %.20q, not ttrpc: %w", s.Protocol, errdefs.ErrNotImplemented)
	}
	if s.Version != 2 && s.Version != 3 {
		return fmt.Errorf("it speaks version %d of the task API, not 2 or 3: %w", s.Version, errdefs.ErrNotImplemented)
	}
	_, err := socketPath(s.Address)
	return err
}

// Message gives s in the form that containerd reads since 2.3.
func (s Bootstrap) Message() []byte { return Marshal((*bootstrapMessage)(&s)) }

// JSON gives s in the form that containerd reads since 1.7, without the
// extensions. 1.7 refuses any version but 2.
func (s Bootstrap) JSON() []byte {
	b, _ := json.Marshal(s) // a number and two strings cannot fail
	return b
}

// bootstrapMessage is containerd.runtime.bootstrap.v1.BootstrapResult.
type bootstrapMessage Bootstrap

func (m *bootstrapMessage) fields(c *codec) {
	version := int32(m.Version)
	c.int32(1, &version)
	m.Version = int(version)
	c.string(2, &m.Address)
	c.string(3, &m.Protocol)
	c.extensions(6, &m.Extensions)
}
