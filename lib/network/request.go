// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/network/port"
)

// Request is what [Host.Setup] is to attach.
type Request struct {
	// ID is used once, and becomes CNI_CONTAINERID.
	ID string
	// From is the network namespace to pin, such as /proc/PID/ns/net; empty: it is pinned at [Host.Netns] already.
	From string
	// Networks are the names of networks in the order of the interfaces, eth0 the first; empty: the default network.
	Networks []string
	// Labels are CNI_ARGS, such as those of [PodLabels].
	Labels map[string]string
	// Owner is kept with the attachment, for [Host.All].
	Owner Owner
	// Ports are published by the plugins with the capability portMappings. A host port of 0 is chosen.
	Ports []Port
	// CheckPorts refuses a host port that a process of the host has.
	CheckPorts bool
	// IPs are static addresses, one of each family at most, for the first network; empty: plugins choose.
	IPs []netip.Addr
	// MAC is that of the first interface; nil: plugins choose.
	MAC net.HardwareAddr
	// DNS, Bandwidth, Ranges and Cgroup are given to plugins with the capabilities dns, bandwidth, ipRanges and
	// cgroupPath; zero: none.
	DNS       DNS
	Bandwidth Bandwidth
	Ranges    [][]Range
	Cgroup    string // path of the cgroup below the hierarchies
	// Lenient leaves out what no plugin of the first network has a capability for, as the CRI wants it. Otherwise that is
	// errdefs.ErrFailedPrecondition for Ports, IPs and MAC; DNS, Bandwidth, Ranges and Cgroup are always left out then.
	Lenient bool
}

// Owner says for whom an attachment was made. The fields mean what the caller's group wants.
type Owner struct {
	Namespace string `json:"namespace,omitempty"`
	ID        string `json:"id,omitempty"`
	UID       string `json:"uid,omitempty"`
	Task      string `json:"task,omitempty"` // incarnation
}

// PodLabels are the CNI_ARGS that Kubernetes' network plugins read, as containerd and CRI-O give them.
func PodLabels(namespace, name, uid, sandbox string) map[string]string {
	return map[string]string{
		"K8S_POD_NAMESPACE": namespace, "K8S_POD_NAME": name, "K8S_POD_UID": uid, "K8S_POD_INFRA_CONTAINER_ID": sandbox,
	}
}

// DNS is what a resolv.conf says; in a result, what plugins have said.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// Bandwidth bounds traffic in bits per second, as seen from the container; 0 is no bound. A burst of 0 is chosen.
type Bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// maxBurst is the largest burst that the bandwidth plugin takes, in bits. containerd gives it, too.
const maxBurst = 1<<31 - 1

// Range is a range of addresses for the plugins with the capability ipRanges. All but Subnet may be empty.
type Range struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart,omitempty"`
	RangeEnd   string `json:"rangeEnd,omitempty"`
	Gateway    string `json:"gateway,omitempty"`
}

// Result is what an attachment has.
type Result struct {
	Interfaces []Interface `json:"interfaces"`
	DNS        DNS         `json:"dns,omitzero"`
	Ports      []Port      `json:"ports,omitempty"` // with the host ports that were chosen
}

// Interface is one of the container's.
type Interface struct {
	Name      string         `json:"name"` // eth0
	Network   string         `json:"network"`
	MAC       string         `json:"mac,omitempty"`
	Addresses []netip.Prefix `json:"addresses"`
	Gateways  []netip.Addr   `json:"gateways,omitempty"`
}

// IPs lists the addresses in the order of the interfaces. The first is the one by which others know the container.
func (r Result) IPs() (all []netip.Addr) {
	for _, i := range r.Interfaces {
		for _, p := range i.Addresses {
			all = append(all, p.Addr())
		}
	}
	return all
}

// capabilities gives what the request says to the plugins of one network, and CNI_ARGS.
func (r Request) capabilities(n Network, first bool) (caps map[string]any, args [][2]string) {
	caps = map[string]any{}
	args = [][2]string{{"IgnoreUnknown", "1"}}
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		args = append(args, [2]string{k, r.Labels[k]})
	}
	if len(r.DNS.Servers)+len(r.DNS.Searches)+len(r.DNS.Options) > 0 {
		caps["dns"] = r.DNS
	}
	if b := r.Bandwidth; b != (Bandwidth{}) {
		for _, x := range []struct{ rate, burst *uint64 }{{&b.IngressRate, &b.IngressBurst}, {&b.EgressRate, &b.EgressBurst}} {
			if *x.rate > 0 && *x.burst == 0 {
				*x.burst = maxBurst
			}
		}
		caps["bandwidth"] = b
	}
	if len(r.Ranges) > 0 {
		caps["ipRanges"] = r.Ranges
	}
	if r.Cgroup != "" {
		caps["cgroupPath"] = r.Cgroup
	}
	if !first {
		return caps, args
	}
	if len(r.Ports) > 0 {
		caps["portMappings"] = r.Ports
	}
	switch {
	case len(r.IPs) > 0 && n.has("ips"):
		caps["ips"] = r.IPs
	case len(r.IPs) > 0:
		args = append(args, [2]string{"IP", r.IPs[0].String()})
	}
	switch {
	case r.MAC != nil && n.has("mac"):
		caps["mac"] = r.MAC.String()
	case r.MAC != nil:
		args = append(args, [2]string{"MAC", r.MAC.String()})
	}
	return caps, args
}

// check refuses what cannot be attached.
func (r Request) check(all []Network) error {
	if err := checkID(r.ID); err != nil {
		return err
	}
	for i, n := range all {
		if slices.ContainsFunc(all[:i], func(o Network) bool { return o.Name == n.Name }) {
			return fmt.Errorf("network %q is named twice: %w", n.Name, errdefs.ErrInvalidArgument)
		}
	}
	for k, v := range r.Labels {
		if k == "" || !clean(k) || !clean(v) {
			return fmt.Errorf("label %.100q=%.100q: CNI_ARGS allow no ';', '=' or control character: %w", k, v, errdefs.ErrInvalidArgument)
		}
	}
	if err := port.Check(r.Ports); err != nil {
		return err
	}
	if r.Lenient {
		return nil
	}
	if len(r.Ports) > 0 && !all[0].has("portMappings") {
		return fmt.Errorf("network %q publishes no ports: none of its plugins has the capability portMappings: %w", all[0].Name, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// clean tells whether text can stand in CNI_ARGS.
func clean(text string) bool {
	for _, r := range text {
		if r < ' ' || r == ';' || r == '=' || r == 0x7f {
			return false
		}
	}
	return true
}
