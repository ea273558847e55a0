// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/cdi"
	"ctrd.dev/ctrd/lib/config"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// amendment is what the spec of a container of a pod has beside what lib/spec makes of options.
type amendment struct {
	id     string // of the pod
	p      Config
	c      ContainerConfig
	run    config.Runtime
	conf   config.CRI
	images map[int]specs.Mount // of Config.Mounts, by their index: those of images
	base   *specs.Spec         // what the container begins with; nil: ctrd's own
}

func (a amendment) amend(r *spec.Result, open spec.Opener) error {
	s := r.Spec
	// The pod's namespace has the name, or the host's.
	s.Hostname, s.Domainname = "", ""
	a.beginWith(s, a.base)
	if err := a.groups(s, open); err != nil {
		return err
	}
	if err := a.mounts(r); err != nil {
		return err
	}
	if err := a.security(s); err != nil {
		return err
	}
	a.ownDevices(s)
	if a.c.Resources != nil {
		if err := a.c.Resources.set(s, a.conf); err != nil {
			return err
		}
	}
	a.annotate(s)
	return a.giveCDI(s)
}

// giveCDI changes a spec as the CDI devices want it that the container is given, or that its annotations ask for.
func (a amendment) giveCDI(s *specs.Spec) error {
	if !a.conf.EnableCDI {
		if len(a.c.CDI) > 0 {
			return fmt.Errorf("cdi_devices: %q: enable_cdi of the configuration is not set: %w", a.c.CDI[0], errdefs.ErrFailedPrecondition)
		}
		return nil
	}
	more, err := cdi.Annotated(a.c.Annotations)
	if err != nil {
		return err
	}
	if err := cdi.Inject(s, a.conf.CDISpecDirs, append(slices.Clone(a.c.CDI), more...)); err != nil {
		return fmt.Errorf("cdi_devices: %w", err)
	}
	return nil
}

// groups sets the supplementary groups: the primary one, those that /etc/group gives the user unless the policy is strict,
// and those that were asked for.
func (a amendment) groups(s *specs.Spec, open spec.Opener) error {
	u := &s.Process.User
	all := []uint32{u.GID}
	if !a.c.Security.StrictGroups {
		all = append(all, u.AdditionalGids...)
		if who, _, both := strings.Cut(a.c.Security.user(), ":"); both {
			more, _, err := spec.User(who, nil, open)
			if err != nil {
				return err
			}
			all = append(all, slices.DeleteFunc(more.AdditionalGids, func(g uint32) bool { return g == more.GID })...)
		}
	}
	for _, g := range a.c.Security.Groups {
		all = append(all, uint32(g))
	}
	u.AdditionalGids = nil
	for _, g := range all {
		if !slices.Contains(u.AdditionalGids, g) {
			u.AdditionalGids = append(u.AdditionalGids, g)
		}
	}
	return nil
}

// ownDevices gives the devices that were asked for to the user and the group that were asked for, where the configuration says so.
func (a amendment) ownDevices(s *specs.Spec) {
	if !a.conf.DeviceOwnershipFromSecurityContext {
		return
	}
	user, group, _ := strings.Cut(a.c.Security.user(), ":")
	for i, dev := range s.Linux.Devices {
		asked := slices.ContainsFunc(a.c.Devices, func(d Device) bool {
			path := cmp.Or(d.Destination, d.Source)
			return dev.Path == path || strings.HasPrefix(dev.Path, strings.TrimSuffix(path, "/")+"/")
		})
		if !asked {
			continue
		}
		for _, to := range []struct {
			text string
			id   **uint32
		}{{user, &s.Linux.Devices[i].UID}, {group, &s.Linux.Devices[i].GID}} {
			// A name, and root, leave it as it is on the host, as containerd does.
			if n, err := strconv.ParseUint(to.text, 10, 32); err == nil && n != 0 {
				id := uint32(n)
				*to.id = &id
			}
		}
	}
}

// security sets what lib/spec has no option for.
func (a amendment) security(s *specs.Spec) error {
	sec := a.c.Security
	s.Process.NoNewPrivileges = sec.NoNewPrivs
	if !sec.Privileged {
		if len(sec.MaskedPaths) > 0 {
			s.Linux.MaskedPaths = slices.Clone(sec.MaskedPaths)
		}
		if len(sec.ReadOnlyPaths) > 0 {
			s.Linux.ReadonlyPaths = slices.Clone(sec.ReadOnlyPaths)
		}
	}
	if err := a.ambient(s); err != nil {
		return err
	}
	if sec.AppArmor.Kind == ProfileLocal && !sec.Privileged {
		if a.conf.DisableAppArmor {
			return fmt.Errorf("security_context.apparmor: profile %q: disable_apparmor of the configuration is set: %w", sec.AppArmor.Name, errdefs.ErrFailedPrecondition)
		}
		if !appArmor() {
			return fmt.Errorf("security_context.apparmor: profile %q: the kernel has no AppArmor: %w", sec.AppArmor.Name, errdefs.ErrFailedPrecondition)
		}
		s.Process.ApparmorProfile = sec.AppArmor.Name
	}
	label := sec.SELinux
	if label == nil {
		label = a.p.SELinux
	}
	if label != nil && a.conf.EnableSELinux && seLinux() {
		text := strings.Join([]string{label.User, label.Role, label.Type, label.Level}, ":")
		s.Process.SelinuxLabel, s.Linux.MountLabel = text, text
	}
	return nil
}

// appArmor tells whether the kernel confines by AppArmor.
func appArmor() bool {
	text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(text), "Y")
}

// seLinux tells whether the kernel labels by SELinux.
func seLinux() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
}

// ambient adds the capabilities that a program keeps whoever runs it.
func (a amendment) ambient(s *specs.Spec) error {
	for _, name := range a.c.Security.AmbientCaps {
		name = "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		known := slices.ContainsFunc(capability.ListKnown(), func(c capability.Cap) bool { return "CAP_"+strings.ToUpper(c.String()) == name })
		if !known {
			return bad("capabilities.add_ambient_capabilities", "%q is no capability", name)
		}
		caps := s.Process.Capabilities
		for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted, &caps.Inheritable, &caps.Ambient} {
			// The lists may share their arrays.
			if *set = slices.Clone(*set); !slices.Contains(*set, name) {
				*set = append(*set, name)
			}
		}
	}
	return nil
}

// securityOptions are those that lib/spec has words for.
func securityOptions(s Security, unset string) ([]string, error) {
	if s.Privileged {
		return nil, nil
	}
	if s.Seccomp.Kind == ProfileUnset {
		local, isLocal := strings.CutPrefix(unset, "localhost/")
		switch {
		case unset == "runtime/default" || unset == "docker/default":
			s.Seccomp.Kind = ProfileDefault
		case isLocal:
			s.Seccomp = Profile{Kind: ProfileLocal, Name: local}
		}
	}
	switch s.Seccomp.Kind {
	case ProfileUnset, ProfileUnconfined:
		return []string{"seccomp=unconfined"}, nil
	case ProfileLocal:
		if _, err := os.Stat(s.Seccomp.Name); err != nil {
			return nil, bad("security_context.seccomp", "%v", err)
		}
		return []string{"seccomp=" + s.Seccomp.Name}, nil
	}
	return nil, nil
}

// The annotations that containerd gives to the containers of pods, which shims and hooks read.
const (
	annotationType      = "io.kubernetes.cri.container-type"
	annotationSandbox   = "io.kubernetes.cri.sandbox-id"
	annotationName      = "io.kubernetes.cri.container-name"
	annotationImage     = "io.kubernetes.cri.image-name"
	annotationPod       = "io.kubernetes.cri.sandbox-name"
	annotationNamespace = "io.kubernetes.cri.sandbox-namespace"
	annotationUID       = "io.kubernetes.cri.sandbox-uid"
)

func (a amendment) annotate(s *specs.Spec) {
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	maps.Copy(s.Annotations, pick(a.c.Annotations, a.run.ContainerAnnotations))
	maps.Copy(s.Annotations, pick(a.p.Annotations, a.run.PodAnnotations))
	for key, value := range map[string]string{
		annotationType: "container", annotationSandbox: a.id, annotationName: a.c.Name, annotationImage: a.c.Image,
		annotationPod: a.p.Name, annotationNamespace: a.p.Namespace, annotationUID: a.p.UID,
	} {
		s.Annotations[key] = value
	}
}

// set fills bounds into a spec.
func (r Resources) set(s *specs.Spec, c config.CRI) error {
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
	if c.DisableHugetlbController {
		r.HugePages = nil
	}
	for size := range r.HugePages {
		if !hugePages(size) && !c.TolerateMissingHugetlbController {
			return bad("resources.hugepage_limits", "the kernel bounds no pages of %s", size)
		}
	}
	r.fill(s.Linux.Resources)
	adj := score(int(r.OOMScoreAdj), c)
	s.Process.OOMScoreAdj = &adj
	return nil
}

// score is the OOM score that a container may have in place of what is asked for.
func score(asked int, c config.CRI) int {
	if least, bound := leastScore(c.RestrictOOMScoreAdj); bound {
		return max(asked, least)
	}
	return asked
}

// Spec gives the bounds as a spec has them.
func (r Resources) Spec() *specs.LinuxResources {
	var all specs.LinuxResources
	r.fill(&all)
	return &all
}

// fill sets the bounds that are given, and leaves the others.
func (r Resources) fill(to *specs.LinuxResources) {
	set := func(p **int64, n int64) {
		if n != 0 {
			*p = &n
		}
	}
	setU := func(p **uint64, n int64) {
		if n != 0 {
			u := uint64(n)
			*p = &u
		}
	}
	if r.CPUPeriod != 0 || r.CPUQuota != 0 || r.CPUShares != 0 || r.CpusetCPUs+r.CpusetMems != "" {
		if to.CPU == nil {
			to.CPU = &specs.LinuxCPU{}
		}
		setU(&to.CPU.Period, r.CPUPeriod)
		set(&to.CPU.Quota, r.CPUQuota)
		setU(&to.CPU.Shares, r.CPUShares)
		if r.CpusetCPUs != "" {
			to.CPU.Cpus = r.CpusetCPUs
		}
		if r.CpusetMems != "" {
			to.CPU.Mems = r.CpusetMems
		}
	}
	if r.Memory != 0 || r.MemorySwap != 0 {
		if to.Memory == nil {
			to.Memory = &specs.LinuxMemory{}
		}
		set(&to.Memory.Limit, r.Memory)
		if swapLimited() {
			swap := r.MemorySwap
			if swap == 0 {
				swap = r.Memory // none, as containerd has it
			}
			set(&to.Memory.Swap, swap)
		}
	}
	for size, limit := range r.HugePages {
		if hugePages(size) {
			to.HugepageLimits = append(slices.DeleteFunc(to.HugepageLimits, func(h specs.LinuxHugepageLimit) bool { return h.Pagesize == size }),
				specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
		}
	}
	for name, value := range r.Unified {
		if to.Unified == nil {
			to.Unified = map[string]string{}
		}
		to.Unified[name] = value
	}
}

// swapLimited says whether the kernel counts swap for a cgroup.
func swapLimited() bool {
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
		return err == nil
	}
	_, err := os.Stat("/proc/swaps")
	return err == nil
}

// hugePages tells whether the kernel bounds pages of a size.
func hugePages(size string) bool {
	for _, pattern := range []string{
		"/sys/fs/cgroup/hugetlb/hugetlb." + size + ".limit_in_bytes", "/sys/fs/cgroup/hugetlb." + size + ".max",
		"/sys/fs/cgroup/*/hugetlb." + size + ".max",
	} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return true
		}
	}
	return false
}

// leastScore gives the least OOM score that this process may give to another, or with restrict its own; it reports false when
// there is no such bound.
func leastScore(restrict bool) (score int, bound bool) {
	if set, err := capability.NewPid2(0); !restrict && err == nil && set.Load() == nil && set.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE) {
		return 0, false
	}
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, false
	}
	score, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return score, err == nil
}

// sources are the names of the pod's files, by where a container has them.
var sources = map[string]string{
	"/etc/hostname":    task.SandboxFile + taskdir.PodHostname,
	"/etc/hosts":       task.SandboxFile + taskdir.PodHosts,
	"/etc/resolv.conf": task.SandboxFile + taskdir.PodResolv,
}
