// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
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
	if c.LogDirectory != "" && !filepath.IsAbs(c.LogDirectory) {
		return bad("log_directory", "%q: want an absolute path", c.LogDirectory)
	}
	if err := c.Namespaces.check(); err != nil {
		return err
	}
	for _, p := range c.Ports {
		if err := p.check(); err != nil {
			return err
		}
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
	for field, list := range map[string][]string{"dns_config.servers": d.Servers, "dns_config.searches": d.Searches, "dns_config.options": d.Options} {
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
	for field, list := range map[string][]specs.LinuxIDMapping{"uids": n.UIDs, "gids": n.GIDs} {
		if len(n.UIDs)+len(n.GIDs) > 0 && len(list) == 0 {
			return bad("userns_options."+field, "missing")
		}
		for _, m := range list {
			const last = 1<<32 - 1
			if m.Size == 0 || uint64(m.HostID)+uint64(m.Size) > last || uint64(m.ContainerID)+uint64(m.Size) > last {
				return bad("userns_options."+field, "%d:%d:%d is no mapping", m.ContainerID, m.HostID, m.Size)
			}
		}
	}
	if len(n.UIDs) > 0 && (n.PID == Node || n.IPC == Node || n.Network == Node) {
		return bad("userns_options", "a user namespace needs a network, pid and ipc namespace of its own")
	}
	return nil
}

func (p Port) check() error {
	const most = 65535
	switch {
	case p.Protocol != "tcp" && p.Protocol != "udp" && p.Protocol != "sctp":
		return bad("port_mappings.protocol", "%q: want tcp, udp or sctp", p.Protocol)
	case p.Container < 0 || p.Container > most:
		return bad("port_mappings.container_port", "%d is no port", p.Container)
	case p.Host < 0 || p.Host > most:
		return bad("port_mappings.host_port", "%d is no port", p.Host)
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
