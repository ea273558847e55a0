// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"net"

	"github.com/containerd/errdefs"
)

// Listen makes the socket of address (unix:///path) with mode 0600. The path
// may be longer than the kernel's 107 bytes, its last name may not be much
// longer than 80. A socket on which nobody listens is replaced; a live one is
// errdefs.ErrAlreadyExists. Two that replace the same dead socket at once must
// be kept apart by the caller. Closing the listener removes the socket.
func Listen(address string) (net.Listener, error) {
	return nil, errdefs.ErrNotImplemented
}
