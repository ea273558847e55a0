// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
)

// Bootstrap is what a shim says on its stdout when it has been started (containerd, docs/runtime-v2.md).
type Bootstrap struct {
	Version  int    `json:"version"` // of the task API: 2 or 3
	Address  string `json:"address"` // unix:///path
	Protocol string `json:"protocol"`
}

// maxBootstrap bounds what a shim may say, in bytes.
const maxBootstrap = 64 << 10

// ParseBootstrap reads what a shim says: a JSON object, or a bare address, which stands for version 2. A
// protocol other than ttrpc is errdefs.ErrNotImplemented; anything else is errdefs.ErrInvalidArgument.
func ParseBootstrap(b []byte) (Bootstrap, error) {
	b = bytes.TrimSpace(b)
	s := Bootstrap{Version: 2, Protocol: "ttrpc"}
	switch {
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
