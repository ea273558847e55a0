// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxHostname is the kernel's __NEW_UTS_LEN.
const maxHostname = 64

// normalize checks the options that are one of a few words, and gives the words their short form.
func (o *Options) normalize() error {
	for _, f := range []struct {
		flag  string
		value *string
		joins bool
		words []string // the first is what "" means
	}{
		{"net", &o.Net, true, []string{"none", "host"}},
		{"pid", &o.PID, true, []string{"private", "host"}},
		{"ipc", &o.IPC, true, []string{"private", "host", "none", "shareable"}},
		{"uts", &o.UTS, true, []string{"private", "host"}},
		{"cgroupns", &o.Cgroupns, false, []string{"", "host", "private"}},
	} {
		if *f.value == "" {
			*f.value = f.words[0]
		}
		if f.joins && joined(*f.value) {
			if *f.value == joinPrefix {
				return invalid(f.flag, *f.value, "want the name of a container after the colon")
			}
			continue
		}
		if !slices.Contains(f.words, *f.value) {
			want := slices.DeleteFunc(slices.Clone(f.words), func(w string) bool { return w == "" })
			if f.joins {
				want = append(want, joinPrefix+"NAME")
			}
			return invalid(f.flag, *f.value, "want one of: %s", strings.Join(want, ", "))
		}
	}
	if o.Cgroupns == "" {
		o.Cgroupns = "host"
		if Unified() && !o.Privileged {
			o.Cgroupns = "private"
		}
	}
	return o.names()
}

// names checks the names of the host that the container shall see, and finds the default.
func (o *Options) names() error {
	for _, n := range [][2]string{{"hostname", o.Hostname}, {"domainname", o.Domainname}} {
		flag, name := n[0], n[1]
		if len(name) > maxHostname || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == '#' }) {
			return invalid(flag, name, "want at most %d characters without blanks", maxHostname)
		}
		if name != "" && (o.UTS == "host" || joined(o.UTS)) {
			return invalid(flag, name, "it would change the name of others: not with --uts %s", o.UTS)
		}
	}
	if o.UTS != "private" || o.Hostname != "" {
		return nil
	}
	o.Hostname = o.ID[:min(len(o.ID), maxHostname)]
	if o.Net == "host" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the host's name: %w", err)
		}
		o.Hostname = name
	}
	return nil
}

// joinPrefix comes before the name of a container whose namespace is shared.
const joinPrefix = "container:"

func joined(mode string) bool { return strings.HasPrefix(mode, joinPrefix) }

// kinds names the kinds of namespace that containers can share, by the option.
var kinds = map[string]specs.LinuxNamespaceType{
	"net": specs.NetworkNamespace, "pid": specs.PIDNamespace, "ipc": specs.IPCNamespace, "uts": specs.UTSNamespace,
}

// joins is Result.Join.
func joins(o Options) map[string]string {
	var list map[string]string
	for kind, mode := range map[string]string{"net": o.Net, "pid": o.PID, "ipc": o.IPC, "uts": o.UTS} {
		if id, ok := strings.CutPrefix(mode, joinPrefix); ok {
			if list == nil {
				list = map[string]string{}
			}
			list[kind] = id
		}
	}
	return list
}

// Join has a container share the namespace at path, such as /proc/PID/ns/net. kind is "net", "pid", "ipc" or
// "uts"; another is errdefs.ErrInvalidArgument, as is a specification that shares the host's.
func Join(s *specs.Spec, kind, path string) error {
	if s.Linux != nil {
		for i := range s.Linux.Namespaces {
			if n := &s.Linux.Namespaces[i]; n.Type == kinds[kind] {
				n.Path = path
				return nil
			}
		}
	}
	return fmt.Errorf("join namespace %q: the container has none of that kind: %w", kind, errdefs.ErrInvalidArgument)
}

func namespaces(o Options) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		mode string
	}{
		{specs.PIDNamespace, o.PID},
		{specs.IPCNamespace, o.IPC},
		{specs.UTSNamespace, o.UTS},
		{specs.NetworkNamespace, o.Net},
		{specs.CgroupNamespace, o.Cgroupns},
	} {
		if n.mode != "host" {
			list = append(list, specs.LinuxNamespace{Type: n.kind})
		}
	}
	if o.UserNS.Private() {
		list = append(list, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	return list
}
