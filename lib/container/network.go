// SPDX-License-Identifier: Apache-2.0

package container

import (
	"net/netip"

	"ctrd.dev/ctrd/lib/network/port"
)

// Network is what a container is attached to.
type Network struct {
	Names []string     `json:"names"`           // of networks, in the order of the interfaces
	Ports []port.Port  `json:"ports,omitempty"` // that are published; a host port of 0 is chosen at each start
	IPs   []netip.Addr `json:"ips,omitempty"`   // static addresses in the first network
	MAC   string       `json:"mac,omitempty"`   // of the first interface; empty: one is made at each start
}
