// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/network/port"
)

// Port publishes a port of the container on the host.
type Port = port.Port

// PortError says that a port of the host is taken. Its kind is errdefs.ErrFailedPrecondition.
type PortError struct {
	Port Port
	By   string // what has it
}

// Error names the port and who has it.
func (e *PortError) Error() string {
	return fmt.Sprintf("port %d/%s of the host is in use by %s", e.Port.HostPort, e.Port.Protocol, e.By)
}

// Unwrap gives the kind.
func (e *PortError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// choosePorts sees that nobody has a port of a request, and chooses those that are 0. The lock "ports" is held.
func (h Host) choosePorts(r Request) ([]Port, error) {
	taken := map[Port]string{}
	err := h.each(func(o record) {
		for _, p := range o.Ports {
			if o.ID != r.ID && o.Boot == h.Boot {
				taken[p] = o.Owner.name(o.ID)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	all := slices.Clone(r.Ports)
	for i, p := range all {
		if p.HostPort == 0 {
			continue
		}
		for o, by := range taken {
			if p.Meets(o) {
				return nil, &PortError{p, by}
			}
		}
		if r.CheckPorts {
			if _, err := tryPort(p); err == unix.EADDRINUSE {
				return nil, &PortError{p, "a process"}
			}
		}
		taken[all[i]] = r.ID
	}
	for i, p := range all {
		if p.HostPort > 0 {
			continue
		}
		if all[i].HostPort, err = freePort(p, taken); err != nil {
			return nil, err
		}
		taken[all[i]] = r.ID
	}
	return all, nil
}

// name is what a person calls the owner.
func (o Owner) name(id string) string {
	if o.ID == "" {
		return "attachment " + id
	}
	return fmt.Sprintf("container %q", o.ID)
}

// freePort chooses a port that neither a process nor an attachment has: the kernel's choice.
func freePort(p Port, taken map[Port]string) (uint16, error) {
	for range 100 {
		n, err := tryPort(p)
		if err != nil {
			return 0, fmt.Errorf("choose a port of the host for %s: %w", p, err)
		}
		free := true
		for o := range taken {
			c := p
			c.HostPort = n
			free = free && !c.Meets(o)
		}
		if free {
			return n, nil
		}
	}
	return 0, fmt.Errorf("choose a port of the host for %s: none is free: %w", p, errdefs.ErrResourceExhausted)
}

// tryPort binds a port of the host for a moment, and gives its number, which the kernel chooses when it is 0.
func tryPort(p Port) (uint16, error) {
	kind, proto := unix.SOCK_STREAM, unix.IPPROTO_TCP
	if p.Protocol == "udp" {
		kind, proto = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	}
	addr, err := netip.ParseAddr(p.HostIP)
	if err != nil {
		addr = netip.IPv4Unspecified()
	}
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(p.HostPort), Addr: [4]byte{}}
	family := unix.AF_INET
	if addr.Is4() {
		sa.(*unix.SockaddrInet4).Addr = addr.As4()
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(p.HostPort), Addr: addr.As16()}
	}
	s, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return 0, err
	}
	defer unix.Close(s)
	if kind == unix.SOCK_STREAM { // connections that linger are nobody's
		if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return 0, err
		}
	}
	if err := unix.Bind(s, sa); err != nil {
		return 0, err
	}
	got, err := unix.Getsockname(s)
	if err != nil {
		return 0, err
	}
	switch a := got.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port), nil
	case *unix.SockaddrInet6:
		return uint16(a.Port), nil
	}
	return 0, unix.EAFNOSUPPORT
}
