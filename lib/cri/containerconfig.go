// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/pod"
	"ctrd.dev/ctrd/lib/task"
)

// containerConfig translates what a container is made from, but for the images, which are to be found.
func containerConfig(m *runtimeapi.ContainerConfig) (c pod.ContainerConfig, err error) {
	if m.GetMetadata() == nil {
		return c, invalid("config.metadata", "missing")
	}
	c = pod.ContainerConfig{
		Name: m.GetMetadata().GetName(), Attempt: m.GetMetadata().GetAttempt(), Image: imageName(m.GetImage()),
		Command: m.GetCommand(), Args: m.GetArgs(), Dir: m.GetWorkingDir(), Labels: m.GetLabels(), Annotations: m.GetAnnotations(),
		LogPath: m.GetLogPath(), Stdin: m.GetStdin(), StdinOnce: m.GetStdinOnce(), TTY: m.GetTty(),
	}
	for _, e := range m.GetEnvs() {
		if e.GetKey() == "" || strings.Contains(e.GetKey(), "=") {
			return c, invalid("envs.key", "%q is no name", e.GetKey())
		}
		c.Env = append(c.Env, e.GetKey()+"="+string(e.GetValue()))
	}
	for _, d := range m.GetDevices() {
		c.Devices = append(c.Devices, pod.Device{Source: d.GetHostPath(), Destination: d.GetContainerPath(), Permissions: d.GetPermissions()})
	}
	for _, d := range m.GetCDIDevices() {
		c.CDI = append(c.CDI, d.GetName())
	}
	for _, one := range m.GetMounts() {
		mount, err := mountOf(one)
		if err != nil {
			return c, err
		}
		c.Mounts = append(c.Mounts, mount)
	}
	if c.StopSignal, err = signalOf(m.GetStopSignal()); err != nil {
		return c, err
	}
	if c.Resources, err = resources(m.GetLinux().GetResources()); err != nil {
		return c, err
	}
	c.Security, err = security(m.GetLinux().GetSecurityContext())
	return c, err
}

// imageName is what the client calls an image.
func imageName(m *runtimeapi.ImageSpec) string {
	if m.GetUserSpecifiedImage() != "" {
		return m.GetUserSpecifiedImage()
	}
	return m.GetImage()
}

var propagations = map[runtimeapi.MountPropagation]string{
	runtimeapi.MountPropagation_PROPAGATION_PRIVATE:           "",
	runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: "rslave",
	runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:     "rshared",
}

func mountOf(m *runtimeapi.Mount) (pod.Mount, error) {
	propagation, known := propagations[m.GetPropagation()]
	if !known {
		return pod.Mount{}, invalid("mounts.propagation", "%d is none", m.GetPropagation())
	}
	if m.GetImage().GetImage() != "" && !m.GetReadonly() {
		return pod.Mount{}, invalid("mounts.readonly", "an image can be mounted read-only alone, and %s is to be written to", m.GetContainerPath())
	}
	return pod.Mount{
		Destination: m.GetContainerPath(), Source: m.GetHostPath(), Image: m.GetImage().GetImage(), SubPath: m.GetImageSubPath(),
		ReadOnly: m.GetReadonly(), RecursiveReadOnly: m.GetRecursiveReadOnly(), Propagation: propagation, Options: m.GetMountOptions(),
		Relabel: m.GetSelinuxRelabel(), UIDs: idMap(m.GetUidMappings()), GIDs: idMap(m.GetGidMappings()),
	}, nil
}

func mountMessages(all []pod.Mount) (list []*runtimeapi.Mount) {
	for _, m := range all {
		one := &runtimeapi.Mount{
			ContainerPath: m.Destination, HostPath: m.Source, ImageSubPath: m.SubPath, Readonly: m.ReadOnly || m.Image != "",
			RecursiveReadOnly: m.RecursiveReadOnly, MountOptions: m.Options, SelinuxRelabel: m.Relabel,
			UidMappings: idMessage(m.UIDs), GidMappings: idMessage(m.GIDs),
		}
		for p, name := range propagations {
			if name == m.Propagation {
				one.Propagation = p
			}
		}
		if m.Image != "" {
			one.Image = &runtimeapi.ImageSpec{Image: m.Asked, ImageRef: m.ImageRef}
		}
		list = append(list, one)
	}
	return list
}

func security(m *runtimeapi.LinuxContainerSecurityContext) (s pod.Security, err error) {
	caps := m.GetCapabilities()
	s = pod.Security{
		Privileged: m.GetPrivileged(), AddCaps: caps.GetAddCapabilities(), DropCaps: caps.GetDropCapabilities(), AmbientCaps: caps.GetAddAmbientCapabilities(),
		Username: m.GetRunAsUsername(), Groups: m.GetSupplementalGroups(), ReadOnlyRoot: m.GetReadonlyRootfs(), NoNewPrivs: m.GetNoNewPrivs(),
		MaskedPaths: m.GetMaskedPaths(), ReadOnlyPaths: m.GetReadonlyPaths(), SELinux: seLinux(m.GetSelinuxOptions()),
	}
	if u := m.GetRunAsUser(); u != nil {
		s.UID = &u.Value
	}
	if g := m.GetRunAsGroup(); g != nil {
		s.GID = &g.Value
	}
	switch p := m.GetSupplementalGroupsPolicy(); p {
	case runtimeapi.SupplementalGroupsPolicy_Merge:
	case runtimeapi.SupplementalGroupsPolicy_Strict:
		s.StrictGroups = true
	default:
		return s, invalid("security_context.supplemental_groups_policy", "%d is none", p)
	}
	//lint:ignore SA1019 clients of before Kubernetes 1.19 have no other field
	if s.Seccomp, err = profile("security_context.seccomp", m.GetSeccomp(), m.GetSeccompProfilePath()); err != nil {
		return s, err
	}
	//lint:ignore SA1019 clients of before Kubernetes 1.27 have no other field
	if s.AppArmor, err = profile("security_context.apparmor", m.GetApparmor(), m.GetApparmorProfile()); err != nil {
		return s, err
	}
	if m == nil {
		return s, nil
	}
	s.Namespaces, err = namespaces(m.GetNamespaceOptions())
	return s, err
}

const signalPrefix = "SIGNAL_"

// signalOf gives a signal by its name, and nothing for the runtime's choice.
func signalOf(s runtimeapi.Signal) (string, error) {
	name, known := runtimeapi.Signal_name[int32(s)]
	switch {
	case !known:
		return "", invalid("stop_signal", "%d is none", s)
	case s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT:
		return "", nil
	}
	return strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(strings.TrimPrefix(name, signalPrefix)), nil
}

// signalMessage is the opposite of signalOf; nothing is TERM, and so is what is no signal.
func signalMessage(name string) runtimeapi.Signal {
	const term = runtimeapi.Signal_SIGNAL_SIGTERM
	if name == "" {
		return term
	}
	sig, err := task.ParseSignal(name)
	if err != nil {
		return term
	}
	for _, s := range slices.Sorted(slices.Values(signals())) {
		if text, err := signalOf(s); err == nil && text != "" {
			if one, err := task.ParseSignal(text); err == nil && one == sig {
				return s
			}
		}
	}
	return term
}

func signals() (all []runtimeapi.Signal) {
	for n := range runtimeapi.Signal_name {
		all = append(all, runtimeapi.Signal(n))
	}
	return all
}
