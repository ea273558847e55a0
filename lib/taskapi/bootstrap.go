// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
)

// Bootstrap is what a shim says on its stdout when it has been started (containerd, docs/runtime-v2.md).
type Bootstrap struct {
	Version  int    `json:"version"` // of the task API: 2 or 3
	Address  string `json:"address"` // unix:///path
	Protocol string `json:"protocol"`
}

// maxBootstrap bounds what a shim may say, in bytes.
const maxBootstrap = 64 << 10

// ParseBootstrap reads what a shim says: a BootstrapResult message (containerd 2.3 and later), a JSON object,
// or a bare address, which stands for version 2. A
// protocol other than ttrpc is errdefs.ErrNotImplemented; anything else is errdefs.ErrInvalidArgument.
func ParseBootstrap(b []byte) (Bootstrap, error) {
	s := Bootstrap{Version: 2, Protocol: "ttrpc"}
	result, ok := parseResult(b)
	b = bytes.TrimSpace(b)
	switch {
	case ok && len(b) <= maxBootstrap:
		s = result
	case len(b) == 0:
		return s, fmt.Errorf("it said nothing: %w", errdefs.ErrInvalidArgument)
	case len(b) > maxBootstrap:
		return s, fmt.Errorf("it said more than %d bytes: %w", maxBootstrap, errdefs.ErrInvalidArgument)
	case b[0] == '{':
		if err := json.Unmarshal(b, &s); err != nil {
			return s, fmt.Errorf("it said %.100q: %w: %w", b, err, errdefs.ErrInvalidArgument)
		}
	default:
		s.Address = string(b)
	}
	if s.Protocol != "ttrpc" && s.Protocol != "" {
		return s, fmt.Errorf("it speaks %.20q, not ttrpc: %w", s.Protocol, errdefs.ErrNotImplemented)
	}
	if s.Version != 2 && s.Version != 3 {
		return s, fmt.Errorf("it speaks version %d of the task API, not 2 or 3: %w", s.Version, errdefs.ErrNotImplemented)
	}
	if _, err := socketPath(s.Address); err != nil {
		return s, err
	}
	return s, nil
}

// BootstrapParams is what a shim is told on its stdin when it is started (containerd/api,
// runtime/bootstrap/v1/bootstrap.proto). Older shims do not read it.
type BootstrapParams struct {
	ID, Namespace             string
	GRPCAddress, TTRPCAddress string // of the daemon
	SocketDir                 string // where the shim's socket is to be; empty: the shim's default
}

// Encode gives the message, with the options of the runtime as an extension; nil is none.
func (p BootstrapParams) Encode(options *Any) []byte {
	var b []byte
	text := func(num protowire.Number, s string) {
		if s != "" {
			b = protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
		}
	}
	text(1, p.ID)
	text(2, p.Namespace)
	text(5, p.TTRPCAddress)
	text(6, p.GRPCAddress)
	if options != nil {
		var value []byte
		value = protowire.AppendString(protowire.AppendTag(value, 1, protowire.BytesType), options.TypeURL)
		value = protowire.AppendBytes(protowire.AppendTag(value, 2, protowire.BytesType), options.Value)
		extension := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), value)
		b = protowire.AppendBytes(protowire.AppendTag(b, 8, protowire.BytesType), extension)
	}
	text(9, p.SocketDir)
	return b
}

// parseResult reads the BootstrapResult message that shims of containerd 2.3 and later answer with. It
// reports false when b is no such message.
func parseResult(b []byte) (s Bootstrap, ok bool) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return s, false
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return s, false
		}
		switch {
		case num == 1 && typ == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(b)
			s.Version = int(int32(v))
		case num == 2 && typ == protowire.BytesType:
			s.Address, _ = protowire.ConsumeString(b)
		case num == 3 && typ == protowire.BytesType:
			s.Protocol, _ = protowire.ConsumeString(b)
		}
		b = b[n:]
	}
	return s, s.Version != 0 && s.Address != ""
}
