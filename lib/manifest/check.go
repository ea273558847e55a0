// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// label is what the names of containers and volumes are made of (RFC 1123).
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// name is what the names of pods are made of: labels and dots between them.
var name = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// in has an error say which field it is about.
func in(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", field, err)
}

// first gives the first error.
func first(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// oneOf refuses a value that a field cannot have. Empty is none, which every field may have.
func oneOf[T ~string](field string, value T, want ...T) error {
	if value == "" || slices.Contains(want, value) {
		return nil
	}
	var all []string
	for _, w := range want {
		all = append(all, string(w))
	}
	return fmt.Errorf("%s %q: want %s", field, string(value), strings.Join(all, ", "))
}

// oneOfSet is oneOf for a field that may be missing.
func oneOfSet[T ~string](field string, value *T, want ...T) error {
	if value == nil {
		return nil
	}
	return oneOf(field, *value, want...)
}

// within refuses a number that is too small or too large.
func within[T ~int | ~int32 | ~int64](field string, value, least, most T) error {
	if value < least || value > most {
		return fmt.Errorf("%s %d: want a number from %d to %d", field, value, least, most)
	}
	return nil
}

// withinSet is within for a field that may be missing.
func withinSet[T ~int | ~int32 | ~int64](field string, value *T, least, most T) error {
	if value == nil {
		return nil
	}
	return within(field, *value, least, most)
}

func unsupported(field string) error { return fmt.Errorf("%s is not supported", field) }

// check says what is wrong with a pod, or not supported: all that can be known before anything is made.
func (p *Pod) check() error {
	s := &p.Pod.Spec
	switch {
	case p.Pod.GenerateName != "" && p.Pod.Name == "":
		return errors.New("metadata.generateName: want metadata.name, by which the pod is found again")
	case !name.MatchString(p.Pod.Name) || len(p.Pod.Name) > 253:
		return fmt.Errorf("metadata.name %q: want lower-case letters, digits, dots and dashes", p.Pod.Name)
	case !label.MatchString(p.Pod.Namespace):
		return fmt.Errorf("metadata.namespace %q: want lower-case letters, digits and dashes", p.Pod.Namespace)
	case len(s.Containers) == 0:
		return errors.New("spec.containers is empty")
	case len(s.EphemeralContainers) > 0:
		return unsupported("spec.ephemeralContainers")
	case len(s.ResourceClaims) > 0:
		return unsupported("spec.resourceClaims")
	case s.Resources != nil:
		return unsupported("spec.resources")
	case s.HostUsers != nil && !*s.HostUsers:
		return unsupported("spec.hostUsers: false")
	case s.HostnameOverride != nil:
		return unsupported("spec.hostnameOverride")
	case isSet(s.SetHostnameAsFQDN):
		return unsupported("spec.setHostnameAsFQDN")
	case s.OS != nil && s.OS.Name != corev1.Linux:
		return fmt.Errorf("spec.os.name %q: want linux", s.OS.Name)
	case *s.TerminationGracePeriodSeconds < 0:
		return errors.New("spec.terminationGracePeriodSeconds is negative")
	case s.ActiveDeadlineSeconds != nil:
		return unsupported("spec.activeDeadlineSeconds")
	case s.Hostname != "" && !label.MatchString(s.Hostname):
		return fmt.Errorf("spec.hostname %q: want lower-case letters, digits and dashes, at most 63", s.Hostname)
	case s.HostPID && isSet(s.ShareProcessNamespace):
		return errors.New("spec.shareProcessNamespace: with hostPID the containers share the host's processes")
	}
	err := first(
		oneOf("spec.restartPolicy", s.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever),
		checkDNS(s), checkAliases(s.HostAliases), in("spec.securityContext", checkPodSecurity(s.SecurityContext)),
	)
	if err != nil {
		return err
	}
	volumes, err := p.checkVolumes()
	if err != nil {
		return err
	}
	seen, hostPorts := map[string]bool{}, map[string]string{}
	for i, c := range p.containers() {
		if err := p.checkContainer(c, i < len(s.InitContainers), volumes); err != nil {
			return fmt.Errorf("container %q: %w", c.Name, err)
		}
		if seen[c.Name] {
			return fmt.Errorf("container %q is there twice", c.Name)
		}
		seen[c.Name] = true
		if i < len(s.InitContainers) && !isSidecar(c) {
			continue
		}
		for _, port := range c.Ports {
			key := fmt.Sprintf("%s %s:%d", port.Protocol, port.HostIP, port.HostPort)
			if other, taken := hostPorts[key]; taken && port.HostPort != 0 {
				return fmt.Errorf("container %q: ports: hostPort %d: container %q has it already", c.Name, port.HostPort, other)
			}
			hostPorts[key] = c.Name
		}
	}
	return nil
}

func checkDNS(s *corev1.PodSpec) error {
	if err := oneOf("spec.dnsPolicy", s.DNSPolicy, corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone); err != nil {
		return err
	}
	if s.DNSPolicy == corev1.DNSNone && (s.DNSConfig == nil || len(s.DNSConfig.Nameservers) == 0) {
		return errors.New("spec.dnsPolicy None: want spec.dnsConfig with nameservers")
	}
	if s.DNSConfig == nil {
		return nil
	}
	for _, ip := range s.DNSConfig.Nameservers {
		if _, err := netip.ParseAddr(ip); err != nil {
			return fmt.Errorf("spec.dnsConfig.nameservers %q: want an IP address", ip)
		}
	}
	for _, o := range s.DNSConfig.Options {
		if o.Name == "" {
			return errors.New("spec.dnsConfig.options: an option has no name")
		}
	}
	return nil
}

func checkAliases(all []corev1.HostAlias) error {
	for _, a := range all {
		if _, err := netip.ParseAddr(a.IP); err != nil {
			return fmt.Errorf("spec.hostAliases: ip %q: want an IP address", a.IP)
		}
		for _, h := range a.Hostnames {
			if !name.MatchString(h) {
				return fmt.Errorf("spec.hostAliases: hostname %q: want lower-case letters, digits, dots and dashes", h)
			}
		}
	}
	return nil
}

// maxID is the largest user or group that Kubernetes knows.
const maxID = math.MaxInt32

func checkPodSecurity(sc *corev1.PodSecurityContext) error {
	if sc == nil {
		return nil
	}
	if sc.WindowsOptions != nil {
		return unsupported("windowsOptions")
	}
	err := first(
		checkSeccomp(sc.SeccompProfile), checkAppArmor(sc.AppArmorProfile), withinSet("runAsUser", sc.RunAsUser, 0, maxID), withinSet("runAsGroup", sc.RunAsGroup, 0, maxID),
		withinSet("fsGroup", sc.FSGroup, 0, maxID),
		oneOfSet("supplementalGroupsPolicy", sc.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict),
	)
	for _, g := range sc.SupplementalGroups {
		err = first(err, within("supplementalGroups", g, 0, maxID))
	}
	seen := map[string]bool{}
	for _, v := range sc.Sysctls {
		if v.Name == "" || seen[v.Name] {
			err = first(err, fmt.Errorf("sysctls: %q is missing or there twice", v.Name))
		}
		seen[v.Name] = true
	}
	return err
}

func checkSeccomp(p *corev1.SeccompProfile) error {
	if p == nil {
		return nil
	}
	return in("seccompProfile", checkProfile(string(p.Type), p.LocalhostProfile))
}

func checkAppArmor(p *corev1.AppArmorProfile) error {
	if p == nil {
		return nil
	}
	return in("appArmorProfile", checkProfile(string(p.Type), p.LocalhostProfile))
}

func checkProfile(kind string, local *string) error {
	switch {
	case kind == "":
		return errors.New("type is not set: want RuntimeDefault, Unconfined or Localhost")
	case kind == "Localhost" && (local == nil || *local == ""):
		return errors.New("type Localhost: want localhostProfile")
	case kind != "Localhost" && local != nil:
		return fmt.Errorf("localhostProfile: the type is %s: want Localhost", kind)
	}
	return oneOf("type", kind, "RuntimeDefault", "Unconfined", "Localhost")
}

// sources lists the kinds of a volume, as they are called in a manifest.
func sources(v *corev1.VolumeSource) ([]string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	err = json.Unmarshal(data, &all)
	return slices.Sorted(maps.Keys(all)), err
}

// supported are the kinds of volumes.
var supported = []string{"configMap", "emptyDir", "hostPath", "image", "secret"}

func (p *Pod) checkVolumes() (map[string]*corev1.Volume, error) {
	names := map[string]*corev1.Volume{}
	for i := range p.Pod.Spec.Volumes {
		v := &p.Pod.Spec.Volumes[i]
		if !label.MatchString(v.Name) {
			return nil, fmt.Errorf("volume %q: want a name of lower-case letters, digits and -", v.Name)
		}
		if names[v.Name] != nil {
			return nil, fmt.Errorf("volume %q is there twice", v.Name)
		}
		names[v.Name] = v
		if err := p.checkVolume(v); err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
	}
	return names, nil
}

func (p *Pod) checkVolume(v *corev1.Volume) error {
	kinds, err := sources(&v.VolumeSource)
	if err != nil {
		return err
	}
	if len(kinds) != 1 || !slices.Contains(supported, kinds[0]) {
		return fmt.Errorf("%s: want one of %s", cmp.Or(strings.Join(kinds, " and "), "it has no source"), strings.Join(supported, ", "))
	}
	switch {
	case v.HostPath != nil:
		if !strings.HasPrefix(v.HostPath.Path, "/") {
			return fmt.Errorf("hostPath.path %q is not absolute", v.HostPath.Path)
		}
		return oneOfSet("hostPath.type", v.HostPath.Type, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory, corev1.HostPathFileOrCreate,
			corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)
	case v.EmptyDir != nil:
		if v.EmptyDir.SizeLimit != nil && v.EmptyDir.SizeLimit.Sign() < 0 {
			return fmt.Errorf("emptyDir.sizeLimit %s is negative", v.EmptyDir.SizeLimit)
		}
		return oneOf("emptyDir.medium", v.EmptyDir.Medium, corev1.StorageMediumMemory)
	case v.ConfigMap != nil:
		data, err := p.configMap(v.ConfigMap.Name, isSet(v.ConfigMap.Optional))
		return in("configMap", first(err, checkItems(data, v.ConfigMap.Items, v.ConfigMap.DefaultMode, isSet(v.ConfigMap.Optional))))
	case v.Secret != nil:
		data, err := p.secret(v.Secret.SecretName, isSet(v.Secret.Optional))
		return in("secret", first(err, checkItems(data, v.Secret.Items, v.Secret.DefaultMode, isSet(v.Secret.Optional))))
	case v.Image.Reference == "":
		return errors.New("image.reference is not set")
	}
	return in("image", checkPolicy("pullPolicy", v.Image.PullPolicy))
}

func checkItems(data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional bool) error {
	if err := withinSet("defaultMode", mode, 0, 0o777); err != nil {
		return err
	}
	if items == nil {
		for key := range data {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	for _, i := range items {
		_, there := data[i.Key]
		switch {
		case !there && !optional:
			return fmt.Errorf("items: there is no key %q", i.Key)
		case !filepath.IsLocal(i.Path):
			return fmt.Errorf("items: path %q leaves the volume", i.Path)
		}
		if err := withinSet("items: mode", i.Mode, 0, 0o777); err != nil {
			return err
		}
	}
	return nil
}

func checkPolicy(field string, policy corev1.PullPolicy) error {
	return oneOf(field, policy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func (p *Pod) checkContainer(c *corev1.Container, init bool, volumes map[string]*corev1.Volume) error {
	switch {
	case !label.MatchString(c.Name):
		return errors.New("name: want lower-case letters, digits and dashes")
	case c.Image == "":
		return errors.New("image is not set")
	case len(c.VolumeDevices) > 0:
		return unsupported("volumeDevices")
	case len(c.Resources.Claims) > 0:
		return unsupported("resources.claims")
	case c.RestartPolicy != nil && (!init || !isSidecar(c)):
		return errors.New("restartPolicy: only an init container may have it, with the value Always")
	case len(c.RestartPolicyRules) > 0:
		return unsupported("restartPolicyRules")
	case init && !isSidecar(c) && (c.LivenessProbe != nil || c.ReadinessProbe != nil || c.StartupProbe != nil || c.Lifecycle != nil):
		return errors.New("an init container that ends has no probes and no lifecycle")
	case c.WorkingDir != "" && !path.IsAbs(c.WorkingDir):
		return fmt.Errorf("workingDir %q is not absolute", c.WorkingDir)
	case c.StdinOnce && !c.Stdin:
		return errors.New("stdinOnce: want stdin, too")
	}
	if err := first(checkPolicy("imagePullPolicy", c.ImagePullPolicy), checkResources(c.Resources), in("securityContext", checkSecurity(c.SecurityContext)),
		p.checkPorts(c), p.checkEnv(c), checkLifecycle(c)); err != nil {
		return err
	}
	for _, one := range []struct {
		kind  string
		probe *corev1.Probe
	}{{"livenessProbe", c.LivenessProbe}, {"readinessProbe", c.ReadinessProbe}, {"startupProbe", c.StartupProbe}} {
		if one.probe == nil {
			continue
		}
		err := checkProbe(c, one.probe)
		switch {
		case err != nil:
		case one.probe != c.ReadinessProbe && one.probe.SuccessThreshold != 1:
			err = fmt.Errorf("successThreshold %d: want 1", one.probe.SuccessThreshold)
		case one.probe == c.ReadinessProbe && one.probe.TerminationGracePeriodSeconds != nil:
			err = errors.New("terminationGracePeriodSeconds: a readiness probe ends nothing")
		}
		if err != nil {
			return in(one.kind, err)
		}
	}
	return checkMounts(c, volumes)
}

func checkMounts(c *corev1.Container, volumes map[string]*corev1.Volume) error {
	seen := map[string]bool{}
	for _, m := range c.VolumeMounts {
		at := path.Clean(m.MountPath)
		switch {
		case volumes[m.Name] == nil:
			return fmt.Errorf("volumeMounts: there is no volume %q", m.Name)
		case !strings.HasPrefix(m.MountPath, "/"):
			return fmt.Errorf("volumeMounts: mountPath %q is not absolute", m.MountPath)
		case at == "/":
			return fmt.Errorf("volumeMounts: mountPath %q is the root of the container", m.MountPath)
		case seen[at]:
			return fmt.Errorf("volumeMounts: mountPath %q is there twice", m.MountPath)
		case m.SubPathExpr != "":
			return unsupported("volumeMounts.subPathExpr")
		case strings.HasPrefix(m.SubPath, "/") || strings.Contains("/"+m.SubPath+"/", "/../"):
			return fmt.Errorf("volumeMounts: subPath %q leaves the volume", m.SubPath)
		case m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled && !m.ReadOnly:
			return fmt.Errorf("volumeMounts: recursiveReadOnly %s: want readOnly, too", *m.RecursiveReadOnly)
		case m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional && (c.SecurityContext == nil || !isSet(c.SecurityContext.Privileged)):
			return errors.New("volumeMounts: mountPropagation Bidirectional: want a privileged container")
		}
		seen[at] = true
		err := first(
			oneOfSet("mountPropagation", m.MountPropagation, corev1.MountPropagationNone, corev1.MountPropagationHostToContainer, corev1.MountPropagationBidirectional),
			oneOfSet("recursiveReadOnly", m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyIfPossible, corev1.RecursiveReadOnlyEnabled),
		)
		if err != nil {
			return in("volumeMounts", err)
		}
	}
	return nil
}

// known are the resources that a container can have here, beside huge pages.
var known = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}

// maxCPU is more than any machine has; it keeps the numbers of the kernel in their range.
const maxCPU = 1 << 20

// minMemory is a page: no program starts in less.
const minMemory = 4096

func checkResources(r corev1.ResourceRequirements) error {
	for _, list := range []struct {
		field string
		all   corev1.ResourceList
	}{{"resources.limits", r.Limits}, {"resources.requests", r.Requests}} {
		for _, n := range slices.Sorted(maps.Keys(list.all)) {
			v := list.all[n]
			limit, bound := r.Limits[n]
			switch size, huge := strings.CutPrefix(string(n), corev1.ResourceHugePagesPrefix); {
			case !huge && !slices.Contains(known, n):
				return fmt.Errorf("%s.%s: there is no such resource here: want cpu, memory or hugepages-SIZE", list.field, n)
			case huge && !hugeSize.MatchString(size):
				return fmt.Errorf("%s.%s: %q is no size of a page: want one such as 2Mi", list.field, n, size)
			case v.Sign() < 0:
				return fmt.Errorf("%s.%s %s is negative", list.field, n, v.String())
			case n == corev1.ResourceCPU && v.CmpInt64(maxCPU) > 0:
				return fmt.Errorf("%s.%s %s: want at most %d", list.field, n, v.String(), maxCPU)
			case n == corev1.ResourceMemory && list.field == "resources.limits" && v.Sign() > 0 && v.CmpInt64(minMemory) < 0:
				return fmt.Errorf("%s.%s %s is %d bytes: want a page at least, 4Ki; Mi is the unit of megabytes, m of thousandths", list.field, n, v.String(), v.Value())
			case bound && v.Cmp(limit) > 0:
				return fmt.Errorf("%s.%s %s is more than the limit, %s", list.field, n, v.String(), limit.String())
			}
		}
	}
	return nil
}

var hugeSize = regexp.MustCompile(`^[1-9][0-9]{0,5}[KMG]i$`)

func checkSecurity(sc *corev1.SecurityContext) error {
	switch {
	case sc == nil:
		return nil
	case sc.WindowsOptions != nil:
		return unsupported("windowsOptions")
	case isSet(sc.Privileged) && sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation:
		return errors.New("allowPrivilegeEscalation false: the container is privileged")
	}
	return first(
		checkSeccomp(sc.SeccompProfile), checkAppArmor(sc.AppArmorProfile), withinSet("runAsUser", sc.RunAsUser, 0, maxID), withinSet("runAsGroup", sc.RunAsGroup, 0, maxID),
		oneOfSet("procMount", sc.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount),
	)
}

func (p *Pod) checkPorts(c *corev1.Container) error {
	names := map[string]bool{}
	for _, port := range c.Ports {
		err := first(
			within("containerPort", port.ContainerPort, 1, 65535), within("hostPort", port.HostPort, 0, 65535),
			oneOf("protocol", port.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP),
		)
		switch {
		case err != nil:
		case port.Name != "" && names[port.Name]:
			err = fmt.Errorf("name %q is there twice", port.Name)
		case p.Pod.Spec.HostNetwork && port.HostPort != port.ContainerPort:
			err = fmt.Errorf("hostPort %d: with hostNetwork it is the containerPort, %d", port.HostPort, port.ContainerPort)
		case port.HostIP != "":
			if _, e := netip.ParseAddr(port.HostIP); e != nil {
				err = fmt.Errorf("hostIP %q: want an IP address", port.HostIP)
			}
		}
		if err != nil {
			return in("ports", err)
		}
		names[port.Name] = true
	}
	return nil
}

// checkEnv refuses variables that cannot be had: names that are none, sources that are not among the manifests.
func (p *Pod) checkEnv(c *corev1.Container) error {
	for _, e := range c.Env {
		switch {
		case e.Name == "" || strings.ContainsAny(e.Name, "=\x00"):
			return fmt.Errorf("env: %q is no name of a variable", e.Name)
		case e.Value != "" && e.ValueFrom != nil:
			return fmt.Errorf("env %s: value and valueFrom: want one of them", e.Name)
		}
	}
	_, err := p.environment(c, Facts{})
	return err
}

func checkLifecycle(c *corev1.Container) error {
	l := c.Lifecycle
	if l == nil {
		return nil
	}
	if s := l.StopSignal; s != nil && runtimeapi.Signal_value[signalPrefix+string(*s)] == 0 {
		return fmt.Errorf("lifecycle.stopSignal %q: there is no such signal: want a name such as SIGUSR1", *s)
	}
	return first(in("lifecycle.postStart", checkHook(c, l.PostStart)), in("lifecycle.preStop", checkHook(c, l.PreStop)))
}

// signalPrefix stands before the names of signals in the CRI.
const signalPrefix = "SIGNAL_"

func checkHook(c *corev1.Container, h *corev1.LifecycleHandler) error {
	if h == nil {
		return nil
	}
	if count(h.Exec != nil, h.HTTPGet != nil, h.TCPSocket != nil, h.Sleep != nil) != 1 || h.TCPSocket != nil {
		return errors.New("want one of exec, httpGet and sleep")
	}
	switch {
	case h.Exec != nil && len(h.Exec.Command) == 0:
		return errors.New("exec.command is empty")
	case h.HTTPGet != nil:
		return checkGet(c, h.HTTPGet)
	case h.Sleep != nil:
		return within("sleep.seconds", h.Sleep.Seconds, 0, maxSeconds)
	}
	return nil
}

func count(all ...bool) (n int) {
	for _, is := range all {
		if is {
			n++
		}
	}
	return n
}

// maxSeconds bounds times: some sixty years.
const maxSeconds = math.MaxInt32

func checkGet(c *corev1.Container, g *corev1.HTTPGetAction) error {
	if err := oneOf("httpGet.scheme", g.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS); err != nil {
		return err
	}
	_, err := portOf(c, g.Port)
	return err
}

// checkProbe says what is wrong with a probe.
func checkProbe(c *corev1.Container, p *corev1.Probe) error {
	if p.TimeoutSeconds < 0 || p.PeriodSeconds < 0 || p.InitialDelaySeconds < 0 || p.FailureThreshold < 0 || p.SuccessThreshold < 0 {
		return errors.New("a number is negative")
	}
	if err := withinSet("terminationGracePeriodSeconds", p.TerminationGracePeriodSeconds, 1, maxSeconds); err != nil {
		return err
	}
	if count(p.Exec != nil, p.HTTPGet != nil, p.TCPSocket != nil, p.GRPC != nil) != 1 {
		return errors.New("want one of exec, httpGet, tcpSocket and grpc")
	}
	switch {
	case p.Exec != nil:
		if len(p.Exec.Command) == 0 {
			return errors.New("exec.command is empty")
		}
	case p.HTTPGet != nil:
		return checkGet(c, p.HTTPGet)
	case p.TCPSocket != nil:
		_, err := portOf(c, p.TCPSocket.Port)
		return err
	case p.GRPC != nil:
		_, err := portOf(c, intstr.FromInt32(p.GRPC.Port))
		return err
	}
	return nil
}
