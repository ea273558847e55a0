// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// Driver is who makes a container's cgroup.
type Driver string

// The drivers, named as docker, containerd and the kubelet name them.
const (
	Cgroupfs Driver = "cgroupfs" // the engine makes directories
	Systemd  Driver = "systemd"  // systemd makes a scope, asked over D-Bus
)

const (
	maxName = 255  // of one component: NAME_MAX, and the longest name of a unit
	maxPath = 3072 // leaves room for a mount point before it and a file's name behind it
	// defaultSlice is where systemd puts a unit that names no slice.
	defaultSlice = "system.slice"
)

// Path gives the cgroup that linux.cgroupsPath of an OCI runtime config means: a clean absolute path, for every
// hierarchy. "/a/b", and "a/b" as well, are that path below the root cgroup. SLICE:PREFIX:NAME is a unit of
// systemd, as runc, containerd and the kubelet write it: PREFIX-NAME.scope in the slice, or the slice NAME when it
// ends in ".slice"; no SLICE is system.slice. What has "..", control characters, a component above 255 bytes or
// more than 3,072 bytes is errdefs.ErrInvalidArgument, and so are "" and the root cgroup.
func Path(spec string) (string, error) {
	p := spec
	if isUnit(spec) {
		parts := strings.Split(spec, ":")
		if len(parts) != 3 || strings.Contains(spec, "/") {
			return "", invalid(spec, "want SLICE:PREFIX:NAME or a path")
		}
		slice, err := expandSlice(parts[0])
		if err != nil {
			return "", err
		}
		if parts[2] == "" {
			return "", invalid(spec, "no name behind the second colon")
		}
		unit := parts[1] + "-" + parts[2] + ".scope"
		if strings.HasSuffix(parts[2], ".slice") {
			unit = parts[2]
		}
		p = slice + "/" + unit
	}
	if len(p) > maxPath {
		return "", invalid(spec, fmt.Sprintf("more than %d bytes", maxPath))
	}
	for name := range strings.SplitSeq(p, "/") {
		switch {
		case name == "..":
			return "", invalid(spec, `".." is not allowed`)
		case len(name) > maxName:
			return "", invalid(spec, fmt.Sprintf("a component of more than %d bytes", maxName))
		}
	}
	if strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", invalid(spec, "a control character")
	}
	p = path.Join("/", p)
	if p == "/" {
		return "", invalid(spec, "the root cgroup is nobody's own")
	}
	return p, nil
}

// UsesSystemd says whether linux.cgroupsPath names a unit of systemd, so that the systemd driver makes it.
func UsesSystemd(spec string) bool { return isUnit(spec) }

func isUnit(spec string) bool { return !strings.HasPrefix(spec, "/") && strings.Contains(spec, ":") }

// Spec gives linux.cgroupsPath for a container. For the cgroupfs driver this is /PARENT/PREFIX--NAME, for the
// systemd driver PARENT:PREFIX:NAME; PARENT is then a slice, system.slice when it is empty. What [Path] refuses,
// a parent that is no slice, and a name that systemd does not take are errdefs.ErrInvalidArgument.
func Spec(d Driver, parent, prefix, name string) (string, error) {
	var spec string
	switch d {
	case Cgroupfs, "":
		spec = "/" + parent + "/" + prefix + "--" + name
	case Systemd:
		if parent == "" {
			parent = defaultSlice
		}
		if strings.Contains(parent, "/") {
			return "", invalid(parent, "the systemd driver wants the name of a slice, not a path")
		}
		if bad := strings.Trim(prefix+name, unitCharacters); bad != "" {
			return "", fmt.Errorf("cgroup of %q: systemd takes no %q in the name of a unit: %w", name, bad, errdefs.ErrInvalidArgument)
		}
		spec = parent + ":" + prefix + ":" + name
	default:
		return "", fmt.Errorf("cgroup driver %q: want cgroupfs or systemd: %w", d, errdefs.ErrInvalidArgument)
	}
	p, err := Path(spec)
	if err != nil {
		return "", err
	}
	if d == Systemd {
		return spec, nil
	}
	return p, nil
}

// unitCharacters may stand in the name of a unit (systemd.unit(5)), but for the colon, which parts a spec.
const unitCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.\\@"

// expandSlice gives the path of a slice: a-b.slice is /a.slice/a-b.slice (systemd.slice(5)).
func expandSlice(slice string) (string, error) {
	if slice == "" {
		slice = defaultSlice
	}
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "" {
		return "", invalid(slice, `a slice is named NAME.slice`)
	}
	if name == "-" {
		return "", nil
	}
	var p, above strings.Builder
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", invalid(slice, "an empty component in the name of a slice")
		}
		above.WriteString(part)
		p.WriteString("/" + above.String() + ".slice")
		if p.Len() > maxPath {
			return "", invalid(slice, fmt.Sprintf("more than %d bytes", maxPath))
		}
		above.WriteString("-")
	}
	return p.String(), nil
}

// invalid is an error about what was asked for. Of what is long only the beginning is quoted.
func invalid(spec, why string) error {
	const most = 100
	if len(spec) > most {
		spec = spec[:most] + "..."
	}
	return fmt.Errorf("cgroup %q: %s: %w", spec, why, errdefs.ErrInvalidArgument)
}

// Booted says whether systemd runs this machine, as sd_booted(3) finds out.
func Booted() bool {
	st, err := os.Lstat("/run/systemd/system")
	return err == nil && st.IsDir()
}
