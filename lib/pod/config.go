// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/network"
)

// Mode says whose namespace of a kind a container has.
type Mode string

// The modes.
const (
	Pod       Mode = ""          // the pod's
	Container Mode = "container" // its own
	Node      Mode = "node"      // the host's
	Target    Mode = "target"    // of pid: that of another container of the pod
)

// Config is what a pod is made from.
type Config struct {
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Namespace string `json:"namespace"` // of Kubernetes
	Attempt   uint32 `json:"attempt,omitempty"`

	Handler      string            `json:"handler,omitempty"` // of the RuntimeClass
	Hostname     string            `json:"hostname,omitempty"`
	LogDirectory string            `json:"log_directory,omitempty"`
	DNS          *DNS              `json:"dns,omitempty"` // nil: as the host
	Ports        []Port            `json:"ports,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`

	// CgroupParent is below which the containers' cgroups are made: a path, or a slice of systemd, by the kubelet's driver.
	CgroupParent string            `json:"cgroup_parent,omitempty"`
	Namespaces   Namespaces        `json:"namespaces,omitzero"`
	Sysctls      map[string]string `json:"sysctls,omitempty"`
	Privileged   bool              `json:"privileged,omitempty"` // it may have privileged containers
	Overhead     *Resources        `json:"overhead,omitempty"`
	Resources    *Resources        `json:"resources,omitempty"` // the sum of the containers'
	SELinux      *SELinux          `json:"selinux,omitempty"`

	// Pause names the record of an image whose program runs in the pod's namespaces besides its containers; empty: none does.
	Pause string `json:"pause,omitempty"`
}

// Namespaces are the modes of the kinds.
type Namespaces struct {
	Network Mode `json:"network,omitempty"`
	PID     Mode `json:"pid,omitempty"`
	IPC     Mode `json:"ipc,omitempty"`
	// Target is the container whose namespace is meant by the mode Target.
	Target string `json:"target,omitempty"`
	// UIDs and GIDs map the users of the pod's user namespace to the host's; none: it has the host's users.
	UIDs []specs.LinuxIDMapping `json:"uids,omitempty"`
	GIDs []specs.LinuxIDMapping `json:"gids,omitempty"`
}

// DNS is what resolv.conf says.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// Port maps a port of the host to one of the pod.
type Port struct {
	Protocol  string `json:"protocol"` // tcp, udp or sctp
	Container int32  `json:"container"`
	Host      int32  `json:"host"` // 0: none
	HostIP    string `json:"host_ip,omitempty"`
}

// SELinux is a label, by its parts.
type SELinux struct {
	User  string `json:"user,omitempty"`
	Role  string `json:"role,omitempty"`
	Type  string `json:"type,omitempty"`
	Level string `json:"level,omitempty"`
}

// bad is the one form of an error about a field.
func bad(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// inOrder gives fields in the order of their names, so that of two that are wrong always the same one is told.
func inOrder[V any](fields map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			if !yield(name, fields[name]) {
				return
			}
		}
	}
}

// isPath tells whether a text is an absolute path that the kernel takes.
func isPath(text string) bool {
	return filepath.IsAbs(text) && len(text) < maxPath && !strings.ContainsRune(text, 0)
}

// Bounds of what a client may say.
const (
	maxName     = 253 // of Kubernetes
	maxHostname = 64  // the kernel's __NEW_UTS_LEN
)

// key is what makes two calls mean the same pod.
func (c Config) key() string {
	return strings.Join([]string{c.Name, c.Namespace, c.UID, strconv.FormatUint(uint64(c.Attempt), 10)}, "\x00")
}

// check refuses what makes no sense, and names the field.
func (c Config) check() error {
	for _, f := range []struct{ field, value string }{
		{"metadata.name", c.Name}, {"metadata.uid", c.UID}, {"metadata.namespace", c.Namespace},
	} {
		switch {
		case f.value == "":
			return bad(f.field, "missing")
		case len(f.value) > maxName || strings.ContainsAny(f.value, "\x00\n"):
			return bad(f.field, "%.300q: want at most %d characters", f.value, maxName)
		}
	}
	if len(c.Hostname) > maxHostname || strings.ContainsFunc(c.Hostname, func(r rune) bool { return r <= ' ' || r == '/' }) {
		return bad("hostname", "%.100q: want at most %d characters without blanks", c.Hostname, maxHostname)
	}
	if c.LogDirectory != "" && !isPath(c.LogDirectory) {
		return bad("log_directory", "%.200q is no absolute path", c.LogDirectory)
	}
	if err := c.Namespaces.check(); err != nil {
		return err
	}
	if c.Namespaces.PID == Target {
		return bad("namespace_options.pid", "a pod has no target: that is for one of its containers")
	}
	if err := checkPorts(c.Ports); err != nil {
		return err
	}
	for field, r := range inOrder(map[string]*Resources{"linux.overhead": c.Overhead, "linux.resources": c.Resources}) {
		if r == nil {
			continue
		}
		if err := r.check(); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
	}
	if _, err := network.ParseBandwidth(c.Annotations); err != nil {
		return fmt.Errorf("annotations: %w", err)
	}
	if c.DNS != nil {
		if err := c.DNS.check(); err != nil {
			return err
		}
	}
	for name, value := range c.Sysctls {
		if err := c.checkSysctl(name, value); err != nil {
			return err
		}
	}
	return nil
}

func (d DNS) check() error {
	for field, list := range inOrder(map[string][]string{"dns_config.servers": d.Servers, "dns_config.searches": d.Searches, "dns_config.options": d.Options}) {
		for _, text := range list {
			if text == "" || strings.ContainsAny(text, " \t\n\x00") {
				return bad(field, "%q: want one word", text)
			}
		}
	}
	return nil
}

func (n Namespaces) check() error {
	for _, f := range []struct {
		field string
		mode  Mode
		wants []Mode
	}{
		{"network", n.Network, []Mode{Pod, Node}},
		{"pid", n.PID, []Mode{Pod, Container, Node, Target}},
		{"ipc", n.IPC, []Mode{Pod, Node}},
	} {
		known := false
		for _, m := range f.wants {
			known = known || m == f.mode
		}
		if !known {
			return bad("namespace_options."+f.field, "mode %q is not supported", f.mode)
		}
	}
	if len(n.UIDs)+len(n.GIDs) > 0 {
		for _, ids := range []struct {
			field string
			all   []specs.LinuxIDMapping
		}{{"userns_options.uids", n.UIDs}, {"userns_options.gids", n.GIDs}} {
			if err := checkMaps(ids.field, ids.all); err != nil {
				return err
			}
			if !slices.ContainsFunc(ids.all, func(m specs.LinuxIDMapping) bool { return m.ContainerID == 0 }) {
				return bad(ids.field, "the root of the pod, 0, is mapped to nobody")
			}
		}
	}
	if len(n.UIDs) > 0 && (n.PID == Node || n.IPC == Node || n.Network == Node) {
		return bad("userns_options", "a user namespace needs a network, pid and ipc namespace of its own")
	}
	return nil
}

// maxMaps is how many mappings the kernel takes for a user namespace, from Linux 4.15 on.
const maxMaps = 340

// checkMaps refuses what maps nobody, beyond the last id, or one id twice, and more than the kernel takes.
func checkMaps(field string, all []specs.LinuxIDMapping) error {
	switch {
	case len(all) == 0:
		return bad(field, "missing")
	case len(all) > maxMaps:
		return bad(field, "%d mappings: the kernel takes %d", len(all), maxMaps)
	}
	overlap := func(a, b, sizeA, sizeB uint32) bool {
		return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
	}
	for i, m := range all {
		const last = 1<<32 - 1
		if m.Size == 0 || uint64(m.HostID)+uint64(m.Size) > last || uint64(m.ContainerID)+uint64(m.Size) > last {
			return bad(field, "%d:%d:%d is no mapping", m.ContainerID, m.HostID, m.Size)
		}
		for _, o := range all[:i] {
			if overlap(m.HostID, o.HostID, m.Size, o.Size) || overlap(m.ContainerID, o.ContainerID, m.Size, o.Size) {
				return bad(field, "%d:%d:%d overlaps another mapping", m.ContainerID, m.HostID, m.Size)
			}
		}
	}
	return nil
}

// checkPorts refuses what is no port, and two mappings of one port of the host.
func checkPorts(all []Port) error {
	seen := map[Port]bool{}
	for _, p := range all {
		if err := p.check(); err != nil {
			return err
		}
		p.Container = 0
		if p.Host > 0 && seen[p] {
			return bad("port_mappings.host_port", "%d of %s is mapped twice", p.Host, p.Protocol)
		}
		seen[p] = true
	}
	return nil
}

func (p Port) check() error {
	const most = 65535
	if p.HostIP != "" {
		if ip, err := netip.ParseAddr(p.HostIP); err != nil || ip.Zone() != "" {
			return bad("port_mappings.host_ip", "%.100q is no address", p.HostIP)
		}
	}
	switch {
	case p.Protocol != "tcp" && p.Protocol != "udp" && p.Protocol != "sctp":
		return bad("port_mappings.protocol", "%q: want tcp, udp or sctp", p.Protocol)
	case p.Container < 0 || p.Container > most:
		return bad("port_mappings.container_port", "%d is no port", p.Container)
	case p.Host < 0 || p.Host > most:
		return bad("port_mappings.host_port", "%d is no port", p.Host)
	case p.Host > 0 && p.Container == 0:
		return bad("port_mappings.container_port", "missing, with the port %d of the host", p.Host)
	}
	return nil
}

// checkSysctl refuses what no namespace of the pod confines.
func (c Config) checkSysctl(name, value string) error {
	dotted := strings.ReplaceAll(name, "/", ".")
	ipc := strings.HasPrefix(dotted, "kernel.shm") || strings.HasPrefix(dotted, "kernel.msg") || dotted == "kernel.sem" || strings.HasPrefix(dotted, "fs.mqueue.")
	switch {
	case strings.ContainsRune(name+value, 0) || name == "" || path.Clean("/"+strings.ReplaceAll(name, ".", "/")) != "/"+strings.ReplaceAll(name, ".", "/"):
		return bad("linux.sysctls", "%q is no name", name)
	case strings.HasPrefix(dotted, "net.") && c.Namespaces.Network != Node:
	case ipc && c.Namespaces.IPC != Node:
	case strings.HasPrefix(dotted, "net.") || ipc:
		return bad("linux.sysctls", "%q would change the host: the pod shares its namespace", name)
	default:
		return bad("linux.sysctls", "%q belongs to no namespace of the pod", name)
	}
	return nil
}

// parent gives the parent of the containers' cgroups and its driver.
func (c Config) parent() (driver, parent string) {
	if base := path.Base(c.CgroupParent); strings.HasSuffix(base, ".slice") {
		return "systemd", base
	}
	return "", strings.Trim(c.CgroupParent, "/")
}
