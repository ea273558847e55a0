// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCaps is the set that docker and containerd give.
var defaultCaps = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// knownCaps lists every capability of capabilities(7) as CAP_NAME.
func knownCaps() []string {
	var names []string
	for _, c := range capability.ListKnown() {
		names = append(names, capName(c))
	}
	return names
}

func capName(c capability.Cap) string { return "CAP_" + strings.ToUpper(c.String()) }

// allCaps is what ALL and --privileged mean: each capability that this process may hand on. A host whose
// root lacks some, such as a machine that is a container itself, would refuse the rest at the start.
func allCaps() []string {
	var names []string
	for _, c := range capability.ListKnown() {
		if ok, err := capability.GetBound(c); err == nil && ok {
			names = append(names, capName(c))
		}
	}
	return names
}

// capList turns the values of --cap-add or --cap-drop into CAP_NAMEs; all says that ALL is among them.
func capList(flag string, values []string) (names []string, all bool, err error) {
	known := knownCaps()
	for _, v := range values {
		name := strings.ToUpper(strings.TrimSpace(v))
		if name == "ALL" || name == "CAP_ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if !slices.Contains(known, name) {
			return nil, false, invalid(flag, v, "no such capability; want ALL or a name such as NET_ADMIN, see capabilities(7)")
		}
		names = append(names, name)
	}
	return names, all, nil
}

// capSet gives the capabilities that options leave: those of base, if that is nil the default set, with --cap-add and --cap-drop, as
// docker combines them: ALL in one of them makes the other the exceptions.
func capSet(privileged bool, base, add, drop []string) ([]string, error) {
	adds, addAll, err := capList("cap-add", add)
	if err != nil {
		return nil, err
	}
	drops, dropAll, err := capList("cap-drop", drop)
	if err != nil {
		return nil, err
	}
	if privileged {
		return allCaps(), nil
	}
	set := slices.Clone(base)
	if base == nil {
		set = slices.Clone(defaultCaps)
	}
	if dropAll {
		set, drops = nil, nil
	}
	if addAll {
		set = allCaps()
	} else {
		set = append(set, adds...)
	}
	set = slices.DeleteFunc(set, func(c string) bool { return slices.Contains(drops, c) })
	slices.Sort(set)
	return slices.Compact(set), nil
}

// capabilities places a set as execve(2) leaves it for that user: who is not root has none in effect, but
// may gain them through a file's.
func capabilities(set []string, uid uint32) *specs.LinuxCapabilities {
	if uid != 0 {
		return &specs.LinuxCapabilities{Bounding: set}
	}
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
}
