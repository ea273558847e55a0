// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Port publishes a port of the container on the host. Its JSON is that of the portmap plugin's portMappings.
type Port struct {
	HostPort      uint16 `json:"hostPort"` // 0: one is chosen
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`         // tcp, udp or sctp
	HostIP        string `json:"hostIP,omitempty"` // empty: every address of the host
}

// String is the port as ParsePorts takes it.
func (p Port) String() string {
	text := fmt.Sprintf("%d:%d/%s", p.HostPort, p.ContainerPort, p.Protocol)
	if strings.Contains(p.HostIP, ":") {
		return "[" + p.HostIP + "]:" + text
	}
	if p.HostIP != "" {
		return p.HostIP + ":" + text
	}
	return text
}

// maxPorts bounds the ports of one attachment.
const maxPorts = 4096

func invalidPort(text, format string, args ...any) error {
	return fmt.Errorf("port %.100q: %s: %w", text, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// ParsePorts reads docker's -p: [[IP:][HOSTPORT]:]PORT[/PROTOCOL]. Each port may be a range FIRST-LAST; both ranges have
// one length, or the host's is longer for a single port, of which the first that is free is meant: that form is
// errdefs.ErrInvalidArgument here. An IPv6 address stands in brackets. Without HOSTPORT one is chosen at the start.
func ParsePorts(text string) ([]Port, error) {
	rest, proto, found := strings.Cut(text, "/")
	if !found {
		proto = "tcp"
	}
	if proto = strings.ToLower(proto); !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return nil, invalidPort(text, "the protocol is none of tcp, udp and sctp")
	}
	ip := ""
	if strings.HasPrefix(rest, "[") {
		end := strings.Index(rest, "]:")
		if end < 0 {
			return nil, invalidPort(text, "want [ADDRESS]:PORT:PORT")
		}
		ip, rest = rest[1:end], rest[end+2:]
		if !strings.Contains(rest, ":") {
			return nil, invalidPort(text, "want [ADDRESS]:PORT:PORT")
		}
	} else if parts := strings.Split(rest, ":"); len(parts) == 3 {
		ip, rest = parts[0], parts[1]+":"+parts[2]
	}
	if ip != "" {
		addr, err := netip.ParseAddr(ip)
		if err != nil || addr.Zone() != "" {
			return nil, invalidPort(text, "%.50q is no IP address", ip)
		}
		ip = addr.Unmap().String()
	}
	host, inside, both := strings.Cut(rest, ":")
	if !both {
		host, inside = "", rest
	}
	first, n, err := parseRange(inside)
	if err != nil {
		return nil, invalidPort(text, "%v", err)
	}
	at, hosts := 0, n
	if host != "" {
		if at, hosts, err = parseRange(host); err != nil {
			return nil, invalidPort(text, "%v", err)
		}
	}
	if hosts != n {
		return nil, invalidPort(text, "the ranges have %d and %d ports", hosts, n)
	}
	var all []Port
	for i := range n {
		p := Port{ContainerPort: uint16(first + i), Protocol: proto, HostIP: ip}
		if at > 0 {
			p.HostPort = uint16(at + i)
		}
		all = append(all, p)
	}
	return all, nil
}

// parseRange reads PORT or FIRST-LAST.
func parseRange(text string) (first, n int, err error) {
	a, b, two := strings.Cut(text, "-")
	if first, err = parsePort(a); err != nil {
		return 0, 0, err
	}
	last := first
	if two {
		if last, err = parsePort(b); err != nil {
			return 0, 0, err
		}
	}
	if n = last - first + 1; n < 1 || n > maxPorts {
		return 0, 0, fmt.Errorf("%.50q is no range of at most %d ports", text, maxPorts)
	}
	return first, n, nil
}

func parsePort(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] == '+' {
		return 0, fmt.Errorf("%.50q is no port from 1 to 65535", text)
	}
	return int(n), nil
}

// checkPorts refuses ports that no plugin can publish, and two on one port of the host.
func checkPorts(ports []Port) error {
	if len(ports) > maxPorts {
		return fmt.Errorf("%d ports: at most %d can be published: %w", len(ports), maxPorts, errdefs.ErrInvalidArgument)
	}
	for i, p := range ports {
		if p.ContainerPort == 0 {
			return invalidPort(p.String(), "the container's port is missing")
		}
		if !slices.Contains([]string{"tcp", "udp", "sctp"}, p.Protocol) {
			return invalidPort(p.String(), "the protocol is none of tcp, udp and sctp")
		}
		if _, err := netip.ParseAddr(p.HostIP); p.HostIP != "" && err != nil {
			return invalidPort(p.String(), "%.50q is no IP address", p.HostIP)
		}
		for _, o := range ports[:i] {
			if p.HostPort > 0 && p.meets(o) {
				return invalidPort(p.String(), "it is published twice")
			}
		}
	}
	return nil
}

// meets tells whether two ports are, or may be, the same one of the host.
func (p Port) meets(o Port) bool {
	return p.HostPort == o.HostPort && p.Protocol == o.Protocol && (p.HostIP == o.HostIP || isAny(p.HostIP) || isAny(o.HostIP))
}

// isAny tells whether an address stands for all of the host.
func isAny(ip string) bool {
	addr, err := netip.ParseAddr(ip)
	return err != nil || addr.IsUnspecified()
}

// PortError says that a port of the host is taken. Its kind is errdefs.ErrAlreadyExists.
type PortError struct {
	Port Port
	By   string // what has it
}

// Error names the port and who has it.
func (e *PortError) Error() string {
	return fmt.Sprintf("port %d/%s of the host is in use by %s", e.Port.HostPort, e.Port.Protocol, e.By)
}

// Unwrap gives the kind.
func (e *PortError) Unwrap() error { return errdefs.ErrAlreadyExists }

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
			if p.meets(o) {
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
			free = free && !c.meets(o)
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
