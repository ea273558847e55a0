// SPDX-License-Identifier: Apache-2.0

// Package port is the published ports of containers: what a person types, and what a record keeps. It is apart from
// lib/network so that who reads records links no CNI.
package port

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Port publishes a port of the container on the host. Its JSON is that of the portmap plugin's portMappings.
type Port struct {
	HostPort      uint16 `json:"hostPort"` // 0: one is chosen
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`         // tcp, udp or sctp
	HostIP        string `json:"hostIP,omitempty"` // empty: every address of the host
}

// String is the port as Parse takes it.
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

// Max bounds the ports of one attachment.
const Max = 4096

func invalid(text, format string, args ...any) error {
	return fmt.Errorf("port %.100q: %s: %w", text, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// Parse reads docker's -p: [[IP:][HOSTPORT]:]PORT[/PROTOCOL]. Each port may be a range FIRST-LAST; both ranges have
// one length, or the host's is longer for a single port, of which the first that is free is meant: that form is
// errdefs.ErrInvalidArgument here. An IPv6 address stands in brackets. Without HOSTPORT one is chosen at the start.
func Parse(text string) ([]Port, error) {
	rest, proto, found := strings.Cut(text, "/")
	if !found {
		proto = "tcp"
	}
	if proto = strings.ToLower(proto); !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return nil, invalid(text, "the protocol is none of tcp, udp and sctp")
	}
	ip := ""
	if strings.HasPrefix(rest, "[") {
		end := strings.Index(rest, "]:")
		if end < 0 {
			return nil, invalid(text, "want [ADDRESS]:PORT:PORT")
		}
		ip, rest = rest[1:end], rest[end+2:]
		if !strings.Contains(rest, ":") {
			return nil, invalid(text, "want [ADDRESS]:PORT:PORT")
		}
	} else if parts := strings.Split(rest, ":"); len(parts) == 3 {
		ip, rest = parts[0], parts[1]+":"+parts[2]
	}
	if ip != "" {
		addr, err := netip.ParseAddr(ip)
		if err != nil || addr.Zone() != "" {
			return nil, invalid(text, "%.50q is no IP address", ip)
		}
		ip = addr.Unmap().String()
	}
	host, inside, both := strings.Cut(rest, ":")
	if !both {
		host, inside = "", rest
	}
	first, n, err := parseRange(inside)
	if err != nil {
		return nil, invalid(text, "%v", err)
	}
	at, hosts := 0, n
	if host != "" {
		if at, hosts, err = parseRange(host); err != nil {
			return nil, invalid(text, "%v", err)
		}
	}
	if hosts != n {
		return nil, invalid(text, "the ranges have %d and %d ports", hosts, n)
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
	if first, err = parse(a); err != nil {
		return 0, 0, err
	}
	last := first
	if two {
		if last, err = parse(b); err != nil {
			return 0, 0, err
		}
	}
	if n = last - first + 1; n < 1 || n > Max {
		return 0, 0, fmt.Errorf("%.50q is no range of at most %d ports", text, Max)
	}
	return first, n, nil
}

func parse(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] == '+' {
		return 0, fmt.Errorf("%.50q is no port from 1 to 65535", text)
	}
	return int(n), nil
}

// Check refuses ports that no plugin can publish, and two on one port of the host.
func Check(ports []Port) error {
	if len(ports) > Max {
		return fmt.Errorf("%d ports: at most %d can be published: %w", len(ports), Max, errdefs.ErrInvalidArgument)
	}
	for i, p := range ports {
		if p.ContainerPort == 0 {
			return invalid(p.String(), "the container's port is missing")
		}
		if !slices.Contains([]string{"tcp", "udp", "sctp"}, p.Protocol) {
			return invalid(p.String(), "the protocol is none of tcp, udp and sctp")
		}
		if _, err := netip.ParseAddr(p.HostIP); p.HostIP != "" && err != nil {
			return invalid(p.String(), "%.50q is no IP address", p.HostIP)
		}
		for _, o := range ports[:i] {
			if p.HostPort > 0 && p.Meets(o) {
				return invalid(p.String(), "it is published twice")
			}
		}
	}
	return nil
}

// Meets tells whether two ports are, or may be, the same one of the host.
func (p Port) Meets(o Port) bool {
	return p.HostPort == o.HostPort && p.Protocol == o.Protocol && (p.HostIP == o.HostIP || isAny(p.HostIP) || isAny(o.HostIP))
}

// isAny tells whether an address stands for all of the host.
func isAny(ip string) bool {
	addr, err := netip.ParseAddr(ip)
	return err != nil || addr.IsUnspecified()
}
