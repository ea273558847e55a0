// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/pod"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskdir"
)

// podMessage is a pod as plugins are told of it.
func podMessage(st pod.Status) *api.PodSandbox {
	m := &api.PodSandbox{
		Id: st.ID, Name: st.Name, Uid: st.UID, Namespace: st.Config.Namespace, Labels: st.Labels, Annotations: st.Annotations,
		RuntimeHandler: st.Handler, Pid: uint32(st.PID), Ips: st.IPs,
		Linux: &api.LinuxPodSandbox{
			PodOverhead: boundsMessage(st.Overhead), PodResources: boundsMessage(st.Resources), CgroupParent: st.CgroupParent, CgroupsPath: st.Cgroup,
		},
	}
	for _, kind := range slices.Sorted(maps.Keys(st.Paths)) {
		m.Linux.Namespaces = append(m.Linux.Namespaces, &api.LinuxNamespace{Type: string(taskdir.NamespaceType(kind)), Path: st.Paths[kind]})
	}
	return m
}

func boundsMessage(r *pod.Resources) *api.LinuxResources {
	if r == nil {
		return nil
	}
	return api.FromOCILinuxResources(r.Spec(), nil)
}

var states = map[pod.State]api.ContainerState{
	pod.Created: api.ContainerState_CONTAINER_CREATED, pod.Running: api.ContainerState_CONTAINER_RUNNING,
	pod.Exited: api.ContainerState_CONTAINER_STOPPED, pod.Unknown: api.ContainerState_CONTAINER_UNKNOWN,
}

// containerMessage is a container as plugins are told of it; files is where its pod has its files.
func containerMessage(c pod.ContainerStatus, s *specs.Spec, files string) *api.Container {
	m := &api.Container{
		Id: c.ID, PodSandboxId: c.Pod, Name: c.Name, State: states[c.State], Labels: c.Labels, Pid: uint32(c.PID),
		CreatedAt: nanoseconds(c.Created.IsZero(), c.Created.UnixNano()), StartedAt: nanoseconds(c.Started.IsZero(), c.Started.UnixNano()),
		Image: &api.Image{Name: c.Image, Digest: digestOf(c.ImageRef)},
		User:  &api.User{Uid: c.User.UID, Gid: c.User.GID, AdditionalGids: c.User.AdditionalGids},

		Annotations: map[string]string{}, // the client's, and those that the spec has
	}
	maps.Copy(m.Annotations, c.Annotations)
	if e := c.Exit; c.State == pod.Exited && e != nil {
		m.FinishedAt, m.ExitCode, m.StatusMessage = e.ExitedAt.UnixNano(), int32(e.Status), e.Reason
	}
	for _, name := range c.CDI {
		m.CDIDevices = append(m.CDIDevices, &api.CDIDevice{Name: name})
	}
	if s == nil {
		return m
	}
	maps.Copy(m.Annotations, s.Annotations)
	m.Hooks = api.FromOCIHooks(s.Hooks)
	m.Mounts = api.FromOCIMounts(mounts(s.Mounts, files))
	if p := s.Process; p != nil {
		m.Args, m.Env = slices.Clone(p.Args), slices.Clone(p.Env)
		for _, r := range p.Rlimits {
			m.Rlimits = append(m.Rlimits, &api.POSIXRlimit{Type: r.Type, Hard: r.Hard, Soft: r.Soft})
		}
	}
	m.Linux = linuxMessage(c, s)
	return m
}

func linuxMessage(c pod.ContainerStatus, s *specs.Spec) *api.LinuxContainer {
	if s.Linux == nil {
		return nil
	}
	m := &api.LinuxContainer{
		Namespaces: api.FromOCILinuxNamespaces(s.Linux.Namespaces), Devices: api.FromOCILinuxDevices(s.Linux.Devices),
		Resources: api.FromOCILinuxResources(s.Linux.Resources, nil), CgroupsPath: s.Linux.CgroupsPath, Sysctl: maps.Clone(s.Linux.Sysctl),
		NetDevices: api.FromOCILinuxNetDevices(s.Linux.NetDevices), SeccompProfile: profileMessage(c.Security.Seccomp),
	}
	if s.Linux.Seccomp != nil {
		m.SeccompPolicy = api.FromOCILinuxSeccomp(s.Linux.Seccomp)
	}
	if p := s.Process; p != nil {
		m.OomScoreAdj = api.Int(p.OOMScoreAdj)
		if p.IOPriority != nil {
			m.IoPriority = api.FromOCILinuxIOPriority(p.IOPriority)
		}
		if p.Scheduler != nil {
			m.Scheduler = api.FromOCILinuxScheduler(p.Scheduler)
		}
	}
	return m
}

func profileMessage(p pod.Profile) *api.SecurityProfile {
	switch p.Kind {
	case pod.ProfileDefault:
		return &api.SecurityProfile{ProfileType: api.SecurityProfile_RUNTIME_DEFAULT}
	case pod.ProfileLocal:
		return &api.SecurityProfile{ProfileType: api.SecurityProfile_LOCALHOST, LocalhostRef: p.Name}
	}
	return &api.SecurityProfile{ProfileType: api.SecurityProfile_UNCONFINED}
}

// mounts gives those of a spec with the paths of the pod's files, which a spec only names.
func mounts(all []specs.Mount, files string) []specs.Mount {
	all = slices.Clone(all)
	for i, m := range all {
		if name, ok := strings.CutPrefix(m.Source, task.SandboxFile); ok {
			all[i].Source = filepath.Join(files, name)
		}
	}
	return all
}

// digestOf gives the digest in a name with one.
func digestOf(ref string) string {
	if _, digest, ok := strings.Cut(ref, "@"); ok {
		return digest
	}
	return ref
}

func nanoseconds(zero bool, n int64) int64 {
	if zero {
		return 0
	}
	return n
}

// changes translates what plugins want changed.
func changes(all []*api.ContainerUpdate) (list []pod.Change) {
	for _, u := range all {
		if u == nil {
			continue
		}
		list = append(list, pod.Change{ID: u.GetContainerId(), Resources: u.GetLinux().GetResources().ToOCI(), IgnoreFailure: u.GetIgnoreFailure()})
	}
	return list
}
