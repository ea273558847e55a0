// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/invoke"

	"ctrd.dev/ctrd/lib/netns"
)

// OwnName is the name of the ready-made network.
const OwnName = "ctrd"

// own is what was chosen for the ready-made network, once. It names no path, so that the directory can be moved.
type own struct {
	Bridge  string         `json:"bridge"`
	Subnets []netip.Prefix `json:"subnets"` // an IPv4 one and, where the host has IPv6, one of unique local addresses
}

const ownFile = "own.json"

// ownNetwork gives the ready-made network: a bridge whose containers reach each other, and others behind the host's address.
func (h Host) ownNetwork() (Network, error) {
	o, err := h.readOwn()
	if errors.Is(err, os.ErrNotExist) {
		o, err = h.makeOwn()
	}
	if err != nil {
		return Network{}, fmt.Errorf("network %q: %w", OwnName, err)
	}
	data, err := json.Marshal(h.ownConf(o))
	if err != nil {
		return Network{}, err
	}
	list, err := parse(data, true)
	if err != nil {
		return Network{}, fmt.Errorf("network %q: %w", OwnName, err)
	}
	return describe(list)
}

func (h Host) readOwn() (o own, err error) {
	file := filepath.Join(h.Kept, ownFile)
	data, err := os.ReadFile(file)
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(data, &o); err != nil || len(o.Subnets) == 0 || o.Bridge == "" {
		return o, fmt.Errorf("%s: %w: %w", file, errors.Join(err), errdefs.ErrDataLoss)
	}
	return o, nil
}

// makeOwn chooses the ready-made network and keeps the choice.
func (h Host) makeOwn() (o own, err error) {
	l, err := h.lock(context.Background(), nil, "own")
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if o, err = h.readOwn(); !errors.Is(err, os.ErrNotExist) {
		return o, err // somebody was faster
	}
	o = own{Bridge: "ctrd0"}
	if h.Mark != "" {
		o.Bridge = "ctrd-" + h.Mark[:min(len(h.Mark), 8)]
	}
	used, err := usedSubnets()
	if err != nil {
		return o, err
	}
	four, err := freeSubnet(h.Mark, used)
	if err != nil {
		return o, err
	}
	o.Subnets = append(o.Subnets, four)
	if hasIPv6() {
		o.Subnets = append(o.Subnets, localSubnet())
	}
	if err := os.MkdirAll(h.Kept, 0o700); err != nil {
		return o, err
	}
	data, err := json.Marshal(o)
	if err != nil {
		return o, err
	}
	return o, replace(filepath.Join(h.Kept, ownFile), data, true)
}

// ownConf is the configuration. It is written for version 0.4.0 of the specification, which the plugins of older
// distributions know.
func (h Host) ownConf(o own) any {
	type object = map[string]any
	var ranges, routes []any
	for _, s := range o.Subnets {
		ranges = append(ranges, []any{object{"subnet": s.String()}})
		dst := "0.0.0.0/0"
		if s.Addr().Is6() {
			dst = "::/0"
		}
		routes = append(routes, object{"dst": dst})
	}
	plugins := []any{
		object{
			"type": "bridge", "bridge": o.Bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true,
			"capabilities": object{"ips": true, "mac": true},
			"ipam":         object{"type": "host-local", "dataDir": h.IPAM, "ranges": ranges, "routes": routes},
		},
		object{"type": "portmap", "snat": true, "capabilities": object{"portMappings": true}},
		object{"type": "firewall"},
	}
	if _, err := invoke.FindInPath("bandwidth", h.bin()); err == nil {
		plugins = append(plugins, object{"type": "bandwidth", "capabilities": object{"bandwidth": true}})
	}
	return object{"cniVersion": "0.4.0", "name": OwnName, "plugins": plugins}
}

// trimmed is the network without the plugins that have nothing to do for a request: each costs the start of a program, at ADD and at
// DEL. Of a network that ctrd has not made that is portmap alone, which gives the result that it has been given where there is no port to map.
func (n Network) trimmed(r Request, first bool) (Network, error) {
	list := *n.list
	list.Plugins = nil
	for i, p := range n.list.Plugins {
		idle := false
		switch p.Network.Type {
		case "portmap":
			idle = (!first || len(r.Ports) == 0) && i > 0 && !bytes.Contains(p.Bytes, []byte("runtimeConfig"))
		case "bandwidth":
			idle = n.File == "" && r.Bandwidth == Bandwidth{}
		}
		if !idle {
			list.Plugins = append(list.Plugins, p)
		}
	}
	return describe(&list)
}

// ToolError says that a program is not installed that a plugin runs. Its kind is errdefs.ErrFailedPrecondition.
type ToolError struct{ Network, Tool string }

// Error names the program.
func (e *ToolError) Error() string {
	return fmt.Sprintf("network %q: its plugins need the program %s, which is not on PATH", e.Network, e.Tool)
}

// Unwrap gives the kind.
func (e *ToolError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (e *ToolError) Hint() string { return "apt install " + e.Tool }

// checkTools tells what the ready-made network lacks.
func checkTools(n Network) error {
	if n.File == "" {
		if _, err := exec.LookPath("iptables"); err != nil {
			return &ToolError{n.Name, "iptables"}
		}
	}
	return nil
}

// prepare makes a namespace ready for a network. Addresses of the ready-made one are nobody else's: the kernel does not
// have to ask for a second whether an IPv6 address is in use.
func (h Host) prepare(id, name string) error {
	if name != OwnName {
		return nil
	}
	return netns.In(h.Netns(id), func() error {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

// ownBlock holds the subnets of which one is chosen: 256 of 4096 addresses.
var ownBlock = netip.MustParsePrefix("10.208.0.0/12")

const ownBits = 20

// freeSubnet chooses a subnet that overlaps none that is in use. Hosts with different marks begin to look at different places.
func freeSubnet(mark string, used []netip.Prefix) (netip.Prefix, error) {
	start := 0
	if mark != "" {
		f := fnv.New32a()
		io.WriteString(f, mark)
		start = int(f.Sum32() % 256)
	}
	base := ownBlock.Addr().As4()
	for i := range 256 {
		n := (start + i) % 256
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{base[0], base[1] + byte(n>>4), byte(n << 4), 0}), ownBits)
		if !slices.ContainsFunc(used, p.Overlaps) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("each subnet of %s overlaps a route of this host: %w", ownBlock, errdefs.ErrResourceExhausted)
}

// localSubnet is a random subnet of unique local addresses (RFC 4193).
func localSubnet() netip.Prefix {
	a := [16]byte{0: 0xfd}
	rand.Read(a[1:6])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// hasIPv6 tells whether the host has IPv6 and what the plugins need for it.
func hasIPv6() bool {
	data, err := os.ReadFile("/proc/net/if_inet6")
	if err != nil || len(data) == 0 {
		return false
	}
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/default/disable_ipv6")
	if err != nil || strings.TrimSpace(string(off)) != "0" {
		return false
	}
	_, err = exec.LookPath("ip6tables")
	return err == nil
}

// usedSubnets lists what the host has routes for, and its name servers.
func usedSubnets() (all []netip.Prefix, err error) {
	for _, t := range []struct {
		file string
		line func(string) (netip.Prefix, bool)
	}{{"/proc/net/route", route4}, {"/proc/net/ipv6_route", route6}, {"/etc/resolv.conf", nameServer}} {
		data, err := os.ReadFile(t.file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			// A route to half of all addresses, as tunnels have it, is a default route.
			if p, ok := t.line(lines.Text()); ok && p.Bits() > 4 {
				all = append(all, p)
			}
		}
	}
	return all, nil
}

// route4 reads a line of /proc/net/route: interface, destination and, in the eighth field, mask, as the machine has numbers in
// memory.
func route4(line string) (netip.Prefix, bool) {
	f := strings.Fields(line)
	if len(f) < 8 {
		return netip.Prefix{}, false
	}
	dst, err := hex.DecodeString(f[1])
	mask, e := hex.DecodeString(f[7])
	if err != nil || e != nil || len(dst) != 4 || len(mask) != 4 {
		return netip.Prefix{}, false
	}
	slices.Reverse(dst) // both machines that this is built for are little-endian
	bits := 0
	for _, b := range mask {
		for ; b > 0; b &= b - 1 {
			bits++
		}
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(dst)), bits).Masked(), true
}

// route6 reads a line of /proc/net/ipv6_route: destination and its length first.
func route6(line string) (netip.Prefix, bool) {
	f := strings.Fields(line)
	if len(f) < 2 {
		return netip.Prefix{}, false
	}
	dst, err := hex.DecodeString(f[0])
	bits, e := strconv.ParseUint(f[1], 16, 8)
	if err != nil || e != nil || len(dst) != 16 || bits > 128 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte(dst)), int(bits)).Masked(), true
}

// nameServer reads a line of resolv.conf(5).
func nameServer(line string) (netip.Prefix, bool) {
	f := strings.Fields(line)
	if len(f) < 2 || f[0] != "nameserver" {
		return netip.Prefix{}, false
	}
	addr, err := netip.ParseAddr(f[1])
	if err != nil {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.WithZone(""), addr.BitLen()), true
}
