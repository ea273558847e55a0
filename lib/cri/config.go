// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/pod"
)

// invalid is the one form of an error about a field.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// podConfig translates what a pod is made from.
func podConfig(m *runtimeapi.PodSandboxConfig, handler string) (c pod.Config, err error) {
	if m.GetMetadata() == nil {
		return c, invalid("config.metadata", "missing")
	}
	meta, linux := m.GetMetadata(), m.GetLinux()
	sec := linux.GetSecurityContext()
	c = pod.Config{
		Name: meta.GetName(), UID: meta.GetUid(), Namespace: meta.GetNamespace(), Attempt: meta.GetAttempt(), Handler: handler,
		Hostname: m.GetHostname(), LogDirectory: m.GetLogDirectory(), Labels: m.GetLabels(), Annotations: m.GetAnnotations(),
		CgroupParent: linux.GetCgroupParent(), Sysctls: linux.GetSysctls(), Privileged: sec.GetPrivileged(),
		SELinux: seLinux(sec.GetSelinuxOptions()),
	}
	if d := m.GetDnsConfig(); d != nil {
		c.DNS = &pod.DNS{Servers: d.GetServers(), Searches: d.GetSearches(), Options: d.GetOptions()}
	}
	for _, p := range m.GetPortMappings() {
		name, known := runtimeapi.Protocol_name[int32(p.GetProtocol())]
		if !known {
			return c, invalid("port_mappings.protocol", "%d is none", p.GetProtocol())
		}
		c.Ports = append(c.Ports, pod.Port{Protocol: strings.ToLower(name), Container: p.GetContainerPort(), Host: p.GetHostPort(), HostIP: p.GetHostIp()})
	}
	if err := checkPodSecurity(sec); err != nil {
		return c, err
	}
	if c.Namespaces, err = namespaces(sec.GetNamespaceOptions()); err != nil {
		return c, err
	}
	if c.Overhead, err = resources(linux.GetOverhead()); err != nil {
		return c, err
	}
	c.Resources, err = resources(linux.GetResources())
	return c, err
}

// checkPodSecurity refuses what no container could have either. Of the pod itself nothing runs: each container is told its own.
func checkPodSecurity(m *runtimeapi.LinuxSandboxSecurityContext) error {
	s, err := security(&runtimeapi.LinuxContainerSecurityContext{
		RunAsUser: m.GetRunAsUser(), RunAsGroup: m.GetRunAsGroup(), SupplementalGroups: m.GetSupplementalGroups(),
		SupplementalGroupsPolicy: m.GetSupplementalGroupsPolicy(), Seccomp: m.GetSeccomp(), Apparmor: m.GetApparmor(),
		//lint:ignore SA1019 clients of before Kubernetes 1.19 have no other field
		SeccompProfilePath: m.GetSeccompProfilePath(),
	})
	if err != nil {
		return err
	}
	return s.Check()
}

// modes are the modes of namespaces.
var modes = map[runtimeapi.NamespaceMode]pod.Mode{
	runtimeapi.NamespaceMode_POD: pod.Pod, runtimeapi.NamespaceMode_CONTAINER: pod.Container,
	runtimeapi.NamespaceMode_NODE: pod.Node, runtimeapi.NamespaceMode_TARGET: pod.Target,
}

func namespaces(m *runtimeapi.NamespaceOption) (n pod.Namespaces, err error) {
	for _, f := range []struct {
		field string
		mode  runtimeapi.NamespaceMode
		to    *pod.Mode
	}{{"network", m.GetNetwork(), &n.Network}, {"pid", m.GetPid(), &n.PID}, {"ipc", m.GetIpc(), &n.IPC}} {
		mode, known := modes[f.mode]
		if !known {
			return n, invalid("namespace_options."+f.field, "mode %d is none", f.mode)
		}
		*f.to = mode
	}
	n.Target = m.GetTargetId()
	if (n.PID == pod.Target) != (n.Target != "") {
		return n, invalid("namespace_options.target_id", "%q with the pid mode %q", n.Target, n.PID)
	}
	u := m.GetUsernsOptions()
	switch u.GetMode() {
	case runtimeapi.NamespaceMode_POD:
	case runtimeapi.NamespaceMode_NODE:
		if len(u.GetUids())+len(u.GetGids()) > 0 {
			return n, invalid("userns_options", "mappings with the mode NODE")
		}
	default:
		return n, invalid("userns_options.mode", "%v is not supported", u.GetMode())
	}
	if u.GetMode() == runtimeapi.NamespaceMode_POD && u != nil && (len(u.GetUids()) == 0 || len(u.GetGids()) == 0) {
		return n, invalid("userns_options", "uids and gids are needed with the mode POD")
	}
	n.UIDs, n.GIDs = idMap(u.GetUids()), idMap(u.GetGids())
	return n, nil
}

func idMap(all []*runtimeapi.IDMapping) (list []specs.LinuxIDMapping) {
	for _, m := range all {
		list = append(list, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return list
}

func namespaceMessage(n pod.Namespaces) *runtimeapi.NamespaceOption {
	mode := func(want pod.Mode) runtimeapi.NamespaceMode {
		for m, one := range modes {
			if one == want {
				return m
			}
		}
		return runtimeapi.NamespaceMode_POD
	}
	m := &runtimeapi.NamespaceOption{Network: mode(n.Network), Pid: mode(n.PID), Ipc: mode(n.IPC), TargetId: n.Target}
	if len(n.UIDs) > 0 {
		m.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: idMessage(n.UIDs), Gids: idMessage(n.GIDs)}
	}
	return m
}

func idMessage(all []specs.LinuxIDMapping) (list []*runtimeapi.IDMapping) {
	for _, m := range all {
		list = append(list, &runtimeapi.IDMapping{ContainerId: m.ContainerID, HostId: m.HostID, Length: m.Size})
	}
	return list
}

func seLinux(m *runtimeapi.SELinuxOption) *pod.SELinux {
	if m == nil {
		return nil
	}
	return &pod.SELinux{User: m.GetUser(), Role: m.GetRole(), Type: m.GetType(), Level: m.GetLevel()}
}

// isPageSize tells whether a text is the size of a huge page, as the names of files in cgroups have it: 2MB.
func isPageSize(text string) bool {
	for _, unit := range []string{"KB", "MB", "GB"} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseUint(number, 10, 32)
			return err == nil && n > 0
		}
	}
	return false
}

func resources(m *runtimeapi.LinuxContainerResources) (*pod.Resources, error) {
	if m == nil {
		return nil, nil
	}
	r := &pod.Resources{
		CPUPeriod: m.GetCpuPeriod(), CPUQuota: m.GetCpuQuota(), CPUShares: m.GetCpuShares(),
		Memory: m.GetMemoryLimitInBytes(), MemorySwap: m.GetMemorySwapLimitInBytes(), OOMScoreAdj: m.GetOomScoreAdj(),
		CpusetCPUs: m.GetCpusetCpus(), CpusetMems: m.GetCpusetMems(), Unified: m.GetUnified(),
	}
	for _, h := range m.GetHugepageLimits() {
		if !isPageSize(h.GetPageSize()) {
			return nil, invalid("resources.hugepage_limits.page_size", "%q is none", h.GetPageSize())
		}
		if r.HugePages == nil {
			r.HugePages = map[string]uint64{}
		}
		r.HugePages[h.GetPageSize()] = h.GetLimit()
	}
	return r, nil
}

// resourcesMessage gives the bounds that a spec has.
func resourcesMessage(r *specs.LinuxResources, score int64) *runtimeapi.LinuxContainerResources {
	m := &runtimeapi.LinuxContainerResources{OomScoreAdj: score}
	if r == nil {
		return m
	}
	value := func(p *int64) int64 {
		if p == nil {
			return 0
		}
		return *p
	}
	valueU := func(p *uint64) int64 {
		if p == nil {
			return 0
		}
		return int64(*p)
	}
	if c := r.CPU; c != nil {
		m.CpuPeriod, m.CpuQuota, m.CpuShares = valueU(c.Period), value(c.Quota), valueU(c.Shares)
		m.CpusetCpus, m.CpusetMems = c.Cpus, c.Mems
	}
	if c := r.Memory; c != nil {
		m.MemoryLimitInBytes, m.MemorySwapLimitInBytes = value(c.Limit), value(c.Swap)
	}
	for _, h := range r.HugepageLimits {
		m.HugepageLimits = append(m.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: h.Pagesize, Limit: h.Limit})
	}
	m.Unified = r.Unified
	return m
}

// profile translates a security profile; text is the field that older kubelets fill.
func profile(field string, m *runtimeapi.SecurityProfile, text string) (p pod.Profile, err error) {
	if m == nil {
		return oldProfile(field, text)
	}
	switch m.GetProfileType() {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		p.Kind = pod.ProfileDefault
	case runtimeapi.SecurityProfile_Unconfined:
		p.Kind = pod.ProfileUnconfined
	case runtimeapi.SecurityProfile_Localhost:
		p.Kind, p.Name = pod.ProfileLocal, m.GetLocalhostRef()
		if p.Name == "" {
			return p, invalid(field+".localhost_ref", "missing")
		}
		p.Name = strings.TrimPrefix(p.Name, "localhost/")
	default:
		return p, invalid(field+".profile_type", "%d is none", m.GetProfileType())
	}
	return p, nil
}

func oldProfile(field, text string) (p pod.Profile, err error) {
	local, isLocal := strings.CutPrefix(text, "localhost/")
	switch {
	case text == "":
	case slices.Contains([]string{"runtime/default", "docker/default"}, text):
		p.Kind = pod.ProfileDefault
	case text == "unconfined":
		p.Kind = pod.ProfileUnconfined
	case isLocal && local != "":
		p.Kind, p.Name = pod.ProfileLocal, local
	default:
		return p, invalid(field, "profile %q is none of runtime/default, unconfined, localhost/NAME", text)
	}
	return p, nil
}
