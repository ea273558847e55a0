// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The labels by which the kubelet, and everybody else, knows pods and their containers.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"
)

// labels are those of the pod, or of one of its containers.
func (p *Pod) labels(uid, container string) map[string]string {
	l := map[string]string{LabelPodName: p.Pod.Name, LabelPodNamespace: p.Pod.Namespace, LabelPodUID: uid}
	if container != "" {
		l[LabelContainerName] = container
		return l
	}
	maps.Copy(l, p.Pod.Labels)
	return l
}

func (p *Pod) hostname() string {
	if h := p.Pod.Spec.Hostname; h != "" {
		return h
	}
	name := p.Pod.Name
	return strings.Trim(name[:min(63, len(name))], "-.")
}

// Sandbox is what RunPodSandbox is asked for.
func (p *Pod) Sandbox(h Home) (*runtimeapi.PodSandboxConfig, error) {
	s := &p.Pod.Spec
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: p.Pod.Name, Uid: h.UID(), Namespace: p.Pod.Namespace},
		LogDirectory: h.logs(), Labels: p.labels(h.UID(), ""), Annotations: p.Pod.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: p.sandboxSecurity(), Sysctls: map[string]string{}},
	}
	if !s.HostNetwork {
		config.Hostname = p.hostname()
		config.PortMappings = p.ports()
	}
	if sc := s.SecurityContext; sc != nil {
		for _, v := range sc.Sysctls {
			config.Linux.Sysctls[v.Name] = v.Value
		}
	}
	if d := s.DNSConfig; d != nil {
		config.DnsConfig = &runtimeapi.DNSConfig{Servers: d.Nameservers, Searches: d.Searches}
		for _, o := range d.Options {
			text := o.Name
			if o.Value != nil {
				text += ":" + *o.Value
			}
			config.DnsConfig.Options = append(config.DnsConfig.Options, text)
		}
	}
	return config, nil
}

func (p *Pod) ports() (out []*runtimeapi.PortMapping) {
	for _, c := range p.containers() {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			protocol := runtimeapi.Protocol(runtimeapi.Protocol_value[string(port.Protocol)])
			out = append(out, &runtimeapi.PortMapping{Protocol: protocol, ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIp: port.HostIP})
		}
	}
	return out
}

// namespaces says which namespaces the containers of the pod share.
func (p *Pod) namespaces() *runtimeapi.NamespaceOption {
	s := &p.Pod.Spec
	n := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_POD, Ipc: runtimeapi.NamespaceMode_POD, Pid: runtimeapi.NamespaceMode_CONTAINER}
	if s.HostNetwork {
		n.Network = runtimeapi.NamespaceMode_NODE
	}
	if s.HostIPC {
		n.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case s.HostPID:
		n.Pid = runtimeapi.NamespaceMode_NODE
	case isSet(s.ShareProcessNamespace):
		n.Pid = runtimeapi.NamespaceMode_POD
	}
	return n
}

func (p *Pod) sandboxSecurity() *runtimeapi.LinuxSandboxSecurityContext {
	out := &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: p.namespaces(), Seccomp: profile(nil)}
	if sc := p.Pod.Spec.SecurityContext; sc != nil {
		out.RunAsUser, out.RunAsGroup = int64Value(sc.RunAsUser), int64Value(sc.RunAsGroup)
		out.SupplementalGroups = p.groups()
		out.Seccomp, out.Apparmor, out.SelinuxOptions = profile(sc.SeccompProfile), appArmor(sc.AppArmorProfile), seLinux(sc.SELinuxOptions)
	}
	for _, c := range p.containers() {
		out.Privileged = out.Privileged || c.SecurityContext != nil && isSet(c.SecurityContext.Privileged)
	}
	return out
}

func (p *Pod) groups() []int64 {
	sc := p.Pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	groups := sc.SupplementalGroups
	if sc.FSGroup != nil {
		groups = append(groups[:len(groups):len(groups)], *sc.FSGroup)
	}
	return groups
}

func int64Value(v *int64) *runtimeapi.Int64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *v}
}

// profile is a seccomp profile; none is the runtime's own, as a kubelet with seccompDefault has it.
func profile(p *corev1.SeccompProfile) *runtimeapi.SecurityProfile {
	switch {
	case p == nil || p.Type == corev1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
}

// appArmor is an AppArmor profile; none is the runtime's own.
func appArmor(p *corev1.AppArmorProfile) *runtimeapi.SecurityProfile {
	if p == nil {
		return nil
	}
	return profile(&corev1.SeccompProfile{Type: corev1.SeccompProfileType(p.Type), LocalhostProfile: p.LocalhostProfile}) // both have the same types
}

func seLinux(o *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// Container is what CreateContainer is asked for. image is the image's id.
func (p *Pod) Container(c *corev1.Container, attempt uint32, image string, h Home, f Facts) (*runtimeapi.ContainerConfig, error) {
	env, err := p.environment(c, f)
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", c.Name, err)
	}
	mounts, err := p.mounts(c, h, f)
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", c.Name, err)
	}
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: attempt},
		Image:    &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: c.Image},
		Command:  expandAll(c.Command, env), Args: expandAll(c.Args, env), WorkingDir: c.WorkingDir, Envs: env, Mounts: mounts,
		Labels: p.labels(h.UID(), c.Name), LogPath: logPath(c.Name, attempt), Stdin: c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{Resources: resources(c.Resources), SecurityContext: p.security(c)},
	}
	if l := c.Lifecycle; l != nil && l.StopSignal != nil {
		config.StopSignal = runtimeapi.Signal(runtimeapi.Signal_value[signalPrefix+string(*l.StopSignal)])
	}
	return config, nil
}

// logPath is the file of a container's log, below the pod's directory of logs.
func logPath(container string, attempt uint32) string {
	return container + "/" + strconv.FormatUint(uint64(attempt), 10) + ".log"
}

// cpuPeriod is what the kubelet takes, in microseconds.
const cpuPeriod = 100000

// maxShares is the kernel's bound; the kubelet asks for no more either.
const maxShares = 262144

func resources(r corev1.ResourceRequirements) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{CpuPeriod: cpuPeriod}
	if v, ok := r.Limits[corev1.ResourceCPU]; ok && !v.IsZero() {
		out.CpuQuota = max(1000, v.MilliValue()*cpuPeriod/1000)
	}
	request, ok := r.Requests[corev1.ResourceCPU]
	if !ok {
		request = r.Limits[corev1.ResourceCPU]
	}
	out.CpuShares = min(max(2, request.MilliValue()*1024/1000), maxShares)
	if v, ok := r.Limits[corev1.ResourceMemory]; ok {
		out.MemoryLimitInBytes = v.Value()
	}
	for name, v := range r.Limits {
		if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
			out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: strings.Replace(size, "i", "B", 1), Limit: uint64(v.Value())})
		}
	}
	return out
}

// The paths of /proc and /sys that a container does not see, or cannot write to: those of the Kubernetes API's procMount Default.
var (
	maskedPaths   = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func (p *Pod) security(c *corev1.Container) *runtimeapi.LinuxContainerSecurityContext {
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: p.namespaces(), SupplementalGroups: p.groups(), Seccomp: profile(nil), MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
	}
	if sc := p.Pod.Spec.SecurityContext; sc != nil {
		out.RunAsUser, out.RunAsGroup = int64Value(sc.RunAsUser), int64Value(sc.RunAsGroup)
		out.Seccomp, out.Apparmor, out.SelinuxOptions = profile(sc.SeccompProfile), appArmor(sc.AppArmorProfile), seLinux(sc.SELinuxOptions)
		if sc.SupplementalGroupsPolicy != nil {
			out.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy(runtimeapi.SupplementalGroupsPolicy_value[string(*sc.SupplementalGroupsPolicy)])
		}
	}
	sc := c.SecurityContext
	if sc == nil {
		return out
	}
	out.Privileged, out.ReadonlyRootfs = isSet(sc.Privileged), isSet(sc.ReadOnlyRootFilesystem)
	out.NoNewPrivs = sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
	if sc.RunAsUser != nil {
		out.RunAsUser = int64Value(sc.RunAsUser)
	}
	if sc.RunAsGroup != nil {
		out.RunAsGroup = int64Value(sc.RunAsGroup)
	}
	if sc.SeccompProfile != nil {
		out.Seccomp = profile(sc.SeccompProfile)
	}
	if sc.AppArmorProfile != nil {
		out.Apparmor = appArmor(sc.AppArmorProfile)
	}
	if sc.SELinuxOptions != nil {
		out.SelinuxOptions = seLinux(sc.SELinuxOptions)
	}
	if sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = nil, nil
	}
	if sc.Capabilities != nil {
		out.Capabilities = &runtimeapi.Capability{}
		for _, v := range sc.Capabilities.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(v))
		}
		for _, v := range sc.Capabilities.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(v))
		}
	}
	return out
}

// mustNotBeRoot tells whether a container may run only as another user.
func (p *Pod) mustNotBeRoot(c *corev1.Container) bool {
	if sc := c.SecurityContext; sc != nil && sc.RunAsNonRoot != nil {
		return *sc.RunAsNonRoot
	}
	sc := p.Pod.Spec.SecurityContext
	return sc != nil && isSet(sc.RunAsNonRoot)
}

// checkUser refuses a container that may not run as root and would.
func (p *Pod) checkUser(c *corev1.Container, image *runtimeapi.Image) error {
	if !p.mustNotBeRoot(c) {
		return nil
	}
	user := p.security(c).RunAsUser
	switch {
	case user != nil && user.Value != 0:
		return nil
	case user == nil && image.GetUid() != nil && image.Uid.Value != 0:
		return nil
	case user == nil && image.GetUid() == nil && image.GetUsername() != "":
		return fmt.Errorf("runAsNonRoot: the image's user %q has a name, of which nobody can tell whether it is root: want runAsUser: %w", image.Username, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("runAsNonRoot: it would run as root: %w", errdefs.ErrFailedPrecondition)
}
