// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxBase bounds the file of base_runtime_spec, in bytes.
const maxBase = 1 << 20

// readBase reads the OCI spec that the containers of a runtime begin with. None is nil.
func readBase(handler, file string) (*specs.Spec, error) {
	if file == "" {
		return nil, nil
	}
	s, err := parseBase(file)
	if err != nil {
		return nil, fmt.Errorf("runtime %q: base_runtime_spec of the configuration: %s: %w: %w", handler, file, err, errdefs.ErrFailedPrecondition)
	}
	return s, nil
}

func parseBase(file string) (*specs.Spec, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBase+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxBase {
		return nil, fmt.Errorf("it is larger than %d bytes", maxBase)
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("no OCI spec: %w", err)
	}
	return &s, nil
}

// baseCaps are the capabilities that a container begins with, before any is added or dropped; nil: the usual ones.
func baseCaps(base *specs.Spec) []string {
	if base == nil || base.Process == nil || base.Process.Capabilities == nil {
		return nil
	}
	return append([]string{}, base.Process.Capabilities.Bounding...)
}

// beginWith has a spec begin with another one: what that says counts where neither the image nor the client says anything. What every
// container needs and the other spec leaves out, such as the mount of /proc, stays.
func (a amendment) beginWith(s, base *specs.Spec) {
	if base == nil {
		return
	}
	if p := base.Process; p != nil {
		to := s.Process
		to.Env = slices.Concat(slices.DeleteFunc(slices.Clone(p.Env), func(e string) bool { return hasVariable(to.Env, e) }), to.Env)
		to.Rlimits = slices.Concat(slices.DeleteFunc(slices.Clone(p.Rlimits), func(r specs.POSIXRlimit) bool {
			return slices.ContainsFunc(to.Rlimits, func(o specs.POSIXRlimit) bool { return o.Type == r.Type })
		}), to.Rlimits)
		fill(&to.OOMScoreAdj, p.OOMScoreAdj)
		fill(&to.Scheduler, p.Scheduler)
		fill(&to.IOPriority, p.IOPriority)
		fill(&to.ExecCPUAffinity, p.ExecCPUAffinity)
		to.ApparmorProfile, to.SelinuxLabel = p.ApparmorProfile, p.SelinuxLabel
	}
	s.Hooks = base.Hooks
	annotations := maps.Clone(base.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	maps.Copy(annotations, s.Annotations)
	s.Annotations = annotations
	for _, m := range base.Mounts {
		i := slices.IndexFunc(s.Mounts, func(o specs.Mount) bool { return o.Destination == m.Destination })
		switch {
		case i < 0:
			s.Mounts = append(s.Mounts, m)
		case m.Destination != "/sys/fs/cgroup" && !a.c.Security.Privileged: // whose options follow from what the container may do
			s.Mounts[i] = m
		}
	}
	if base.Linux != nil {
		a.beginLinux(s.Linux, base.Linux)
	}
}

func (a amendment) beginLinux(to, base *specs.Linux) {
	sysctls := maps.Clone(base.Sysctl)
	if sysctls == nil {
		sysctls = map[string]string{}
	}
	maps.Copy(sysctls, to.Sysctl)
	if to.Sysctl = sysctls; len(sysctls) == 0 {
		to.Sysctl = nil
	}
	for _, d := range base.Devices {
		if !slices.ContainsFunc(to.Devices, func(o specs.LinuxDevice) bool { return o.Path == d.Path }) {
			to.Devices = append(to.Devices, d)
		}
	}
	if !a.c.Security.Privileged {
		if base.MaskedPaths != nil {
			to.MaskedPaths = base.MaskedPaths
		}
		if base.ReadonlyPaths != nil {
			to.ReadonlyPaths = base.ReadonlyPaths
		}
		if to.Seccomp == nil && a.c.Security.Seccomp.Kind == ProfileUnset && a.conf.UnsetSeccompProfile == "" {
			to.Seccomp = base.Seccomp
		}
	}
	if to.RootfsPropagation == "" {
		to.RootfsPropagation = base.RootfsPropagation
	}
	fill(&to.IntelRdt, base.IntelRdt)
	fill(&to.Personality, base.Personality)
	if r := base.Resources; r != nil {
		if to.Resources == nil {
			to.Resources = &specs.LinuxResources{}
		}
		for _, d := range r.Devices {
			if d.Allow {
				to.Resources.Devices = append(to.Resources.Devices, d)
			}
		}
		fill(&to.Resources.Memory, r.Memory)
		fill(&to.Resources.CPU, r.CPU)
		fill(&to.Resources.BlockIO, r.BlockIO)
		fill(&to.Resources.Network, r.Network)
		if r.Pids != nil {
			to.Resources.Pids = r.Pids
		}
		if len(to.Resources.HugepageLimits) == 0 {
			to.Resources.HugepageLimits = r.HugepageLimits
		}
		if to.Resources.Rdma == nil {
			to.Resources.Rdma = r.Rdma
		}
		if to.Resources.Unified == nil {
			to.Resources.Unified = r.Unified
		}
	}
}

// fill sets a pointer that is nil.
func fill[T any](to **T, value *T) {
	if *to == nil {
		*to = value
	}
}

// hasVariable tells whether an environment sets the variable of KEY=VALUE.
func hasVariable(env []string, variable string) bool {
	key, _, _ := strings.Cut(variable, "=")
	return slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, key+"=") })
}
