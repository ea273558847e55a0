// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/network"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// networkGroup is the group of the attachments of pods.
const networkGroup = "pods"

// networks is where the networks of pods are.
func (h Host) networks(confDir string) (network.Host, error) {
	n, err := task.Networks(h.Dir, networkGroup)
	if err != nil {
		return n, err
	}
	// The variables of CNI's own tools go before the configuration.
	c := h.config().CRI.CNI
	n.Conf = cmp.Or(confDir, n.Conf, c.ConfDir)
	if len(n.Bin) == 0 {
		n.Bin = c.BinDirs
	}
	n.ReadyMade = h.ReadyMade
	return n, nil
}

// NetworkReady tells whether pods can be given a network: nil when they can, else why not.
func (h Host) NetworkReady(ctx context.Context) error {
	n, err := h.networks("")
	if err != nil {
		return err
	}
	return n.Status(ctx)
}

// connect gives the pod its network, and its addresses, the main one first. paths are those of its namespaces.
func (h Host) connect(ctx context.Context, l *lock.Lock, s sandbox.Sandbox, c Config, netns string) ([]string, error) {
	if c.Namespaces.Network == Node {
		return nil, nil
	}
	run, err := h.handler(c.Handler)
	if err != nil {
		return nil, err
	}
	n, err := h.networks(run.CNIConfDir)
	if err != nil {
		return nil, err
	}
	bandwidth, err := network.ParseBandwidth(c.Annotations)
	if err != nil {
		return nil, err
	}
	var names []string
	if most := cmp.Or(run.CNIMaxConfNum, h.config().CRI.CNI.MaxConfNum); most != 1 {
		if names, err = n.First(most); err != nil {
			return nil, fmt.Errorf("attach to the network: %w", err)
		}
	}
	r := network.Request{
		Networks: names, ID: s.UID, From: netns, Labels: network.PodLabels(c.Namespace, c.Name, c.UID, s.ID),
		Owner: network.Owner{Namespace: h.Namespace, ID: s.ID, UID: s.UID}, Bandwidth: bandwidth, Cgroup: c.CgroupParent, Lenient: true,
	}
	for _, p := range c.Ports {
		if p.Host > 0 {
			r.Ports = append(r.Ports, network.Port{HostPort: uint16(p.Host), ContainerPort: uint16(p.Container), Protocol: p.Protocol, HostIP: p.HostIP})
		}
	}
	if d := c.DNS; d != nil {
		r.DNS = network.DNS{Servers: d.Servers, Searches: d.Searches, Options: d.Options}
	}
	res, err := n.Setup(ctx, l, r)
	if err != nil {
		return nil, err
	}
	// A pod is known by the addresses of its first interface, as with containerd: one of each family.
	res.Interfaces = res.Interfaces[:min(1, len(res.Interfaces))]
	return sortIPs(res.IPs(), h.config().CRI.CNI.IPPref), nil
}

// sortIPs puts the main address first.
func sortIPs(all []netip.Addr, prefer string) (list []string) {
	slices.SortStableFunc(all, func(a, b netip.Addr) int {
		rank := func(ip netip.Addr) int {
			if prefer == "ipv4" && !ip.Is4() || prefer == "ipv6" && !ip.Is6() {
				return 1
			}
			return 0
		}
		return rank(a) - rank(b)
	})
	for _, ip := range all {
		list = append(list, ip.String())
	}
	return list
}

// disconnect takes the network of a pod away. A pod that has none is success.
func (h Host) disconnect(ctx context.Context, l *lock.Lock, s sandbox.Sandbox) error {
	n, err := h.networks("")
	if err != nil {
		return err
	}
	return n.Teardown(ctx, l, s.UID)
}

// tidyNetworks takes pods off their networks that nobody has any more: those without a record, and those of another boot.
func tidyNetworks(ctx context.Context, d *state.Dir, keep func(uid string) bool) error {
	n, err := Host{Dir: d}.networks("")
	if err != nil {
		return err
	}
	err = n.GC(ctx, nil, func(a network.Attachment) bool { return keep(a.ID) })
	if err != nil {
		return fmt.Errorf("networks of pods: %w", err)
	}
	return nil
}
