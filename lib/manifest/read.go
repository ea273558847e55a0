// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	documents "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Pod is a pod of a manifest, and the configuration that its containers may refer to.
type Pod struct {
	Pod        *corev1.Pod                  `json:"pod"`
	ConfigMaps map[string]*corev1.ConfigMap `json:"configMaps,omitempty"` // by name, those of the pod's namespace
	Secrets    map[string]*corev1.Secret    `json:"secrets,omitempty"`
}

// maxDocument bounds a document of a manifest, in bytes.
const maxDocument = 4 << 20

// Read reads manifests: YAML documents, or JSON, of the kinds Pod, ConfigMap and Secret of the API v1. Pods have their
// defaults filled in. A field that does not exist or is not supported is an error of kind InvalidArgument.
func Read(manifests ...[]byte) (pods []*Pod, err error) {
	var maps []*corev1.ConfigMap
	var secrets []*corev1.Secret
	for _, data := range manifests {
		r := documents.NewYAMLReader(bufio.NewReaderSize(bytes.NewReader(data), 64<<10))
		for {
			doc, err := r.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
			}
			if len(bytes.TrimSpace(doc)) == 0 {
				continue
			}
			if err := readDocument(doc, &pods, &maps, &secrets); err != nil {
				return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
			}
		}
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("no document is a pod: %w", errdefs.ErrInvalidArgument)
	}
	seen := map[string]bool{}
	for _, p := range pods {
		if seen[p.Key()] {
			return nil, fmt.Errorf("pod %q is there twice: %w", p.Key(), errdefs.ErrInvalidArgument)
		}
		seen[p.Key()] = true
		p.refer(maps, secrets)
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("pod %q: %w: %w", p.Key(), err, errdefs.ErrInvalidArgument)
		}
	}
	return pods, nil
}

func readDocument(doc []byte, pods *[]*Pod, maps *[]*corev1.ConfigMap, secrets *[]*corev1.Secret) error {
	if len(doc) > maxDocument {
		return fmt.Errorf("a document of %d bytes: it may have %d", len(doc), maxDocument)
	}
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		return err
	}
	if kind.APIVersion != "v1" && kind.Kind != "" {
		return fmt.Errorf("kind %s of %q: want apiVersion v1, kinds Pod, ConfigMap and Secret", kind.Kind, kind.APIVersion)
	}
	switch kind.Kind {
	case "Pod":
		p := &corev1.Pod{}
		if err := yaml.UnmarshalStrict(doc, p); err != nil {
			return fmt.Errorf("pod: %w", err)
		}
		p.Namespace = cmp.Or(p.Namespace, metav1.NamespaceDefault)
		p.Status, p.ManagedFields = corev1.PodStatus{}, nil // of the pod that this was printed of
		setDefaults(p)
		*pods = append(*pods, &Pod{Pod: p})
	case "ConfigMap":
		m := &corev1.ConfigMap{}
		if err := yaml.UnmarshalStrict(doc, m); err != nil {
			return fmt.Errorf("ConfigMap: %w", err)
		}
		*maps = append(*maps, m)
	case "Secret":
		s := &corev1.Secret{}
		if err := yaml.UnmarshalStrict(doc, s); err != nil {
			return fmt.Errorf("secret: %w", err)
		}
		for k, v := range s.StringData {
			if s.Data == nil {
				s.Data = map[string][]byte{}
			}
			s.Data[k] = []byte(v)
		}
		*secrets = append(*secrets, s)
	case "":
		return errors.New("a document has no kind: want Pod, ConfigMap or Secret")
	default:
		return fmt.Errorf("kind %s: want Pod, ConfigMap or Secret; what makes pods of a %s is a cluster", kind.Kind, kind.Kind)
	}
	return nil
}

// Key is NAMESPACE/NAME.
func (p *Pod) Key() string { return p.Pod.Namespace + "/" + p.Pod.Name }

// refer takes the configuration of the pod's namespace.
func (p *Pod) refer(maps []*corev1.ConfigMap, secrets []*corev1.Secret) {
	p.ConfigMaps, p.Secrets = map[string]*corev1.ConfigMap{}, map[string]*corev1.Secret{}
	for _, m := range maps {
		if cmp.Or(m.Namespace, metav1.NamespaceDefault) == p.Pod.Namespace {
			p.ConfigMaps[m.Name] = m
		}
	}
	for _, s := range secrets {
		if cmp.Or(s.Namespace, metav1.NamespaceDefault) == p.Pod.Namespace {
			p.Secrets[s.Name] = s
		}
	}
}

// containers gives all containers, init containers first.
func (p *Pod) containers() []*corev1.Container {
	var all []*corev1.Container
	for _, list := range [][]corev1.Container{p.Pod.Spec.InitContainers, p.Pod.Spec.Containers} {
		for i := range list {
			all = append(all, &list[i])
		}
	}
	return all
}

// isSidecar tells an init container that goes on beside the others.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// setDefaults fills in what the API server would.
func setDefaults(p *corev1.Pod) {
	s := &p.Spec
	s.RestartPolicy = cmp.Or(s.RestartPolicy, corev1.RestartPolicyAlways)
	if s.TerminationGracePeriodSeconds == nil {
		grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
		s.TerminationGracePeriodSeconds = &grace
	}
	for _, c := range (&Pod{Pod: p}).containers() {
		if c.ImagePullPolicy == "" {
			c.ImagePullPolicy = corev1.PullIfNotPresent
			if floating(c.Image) {
				c.ImagePullPolicy = corev1.PullAlways
			}
		}
		for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if probe != nil {
				probe.TimeoutSeconds, probe.PeriodSeconds = cmp.Or(probe.TimeoutSeconds, 1), cmp.Or(probe.PeriodSeconds, 10)
				probe.SuccessThreshold, probe.FailureThreshold = cmp.Or(probe.SuccessThreshold, 1), cmp.Or(probe.FailureThreshold, 3)
			}
		}
		for i := range c.Ports {
			c.Ports[i].Protocol = cmp.Or(c.Ports[i].Protocol, corev1.ProtocolTCP)
			if s.HostNetwork && c.Ports[i].HostPort == 0 {
				c.Ports[i].HostPort = c.Ports[i].ContainerPort
			}
		}
	}
}

// floating tells an image's name whose image changes: its tag is latest, or it has none.
func floating(image string) bool {
	name := image[strings.LastIndexByte(image, '/')+1:]
	_, tag, tagged := strings.Cut(name, ":")
	return !strings.Contains(name, "@") && (!tagged || tag == "latest")
}

// label is what the names of pods, containers and volumes are made of (RFC 1123).
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// name is what the names of pods are made of: labels and dots between them.
var name = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// check says what is wrong with a pod, or not supported.
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
	case s.HostUsers != nil && !*s.HostUsers:
		return unsupported("spec.hostUsers: false")
	case s.OS != nil && s.OS.Name != corev1.Linux:
		return fmt.Errorf("spec.os.name %q: want linux", s.OS.Name)
	case *s.TerminationGracePeriodSeconds < 0:
		return errors.New("spec.terminationGracePeriodSeconds is negative")
	case s.ActiveDeadlineSeconds != nil:
		return unsupported("spec.activeDeadlineSeconds")
	case s.RestartPolicy != corev1.RestartPolicyAlways && s.RestartPolicy != corev1.RestartPolicyOnFailure && s.RestartPolicy != corev1.RestartPolicyNever:
		return fmt.Errorf("spec.restartPolicy %q: want Always, OnFailure or Never", s.RestartPolicy)
	}
	volumes, err := p.checkVolumes()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for i, c := range p.containers() {
		if err := checkContainer(c, i < len(s.InitContainers), volumes); err != nil {
			return fmt.Errorf("container %q: %w", c.Name, err)
		}
		if seen[c.Name] {
			return fmt.Errorf("container %q is there twice", c.Name)
		}
		seen[c.Name] = true
	}
	return nil
}

func unsupported(field string) error { return fmt.Errorf("%s is not supported", field) }

func (p *Pod) checkVolumes() (map[string]bool, error) {
	names := map[string]bool{}
	for _, v := range p.Pod.Spec.Volumes {
		if !label.MatchString(v.Name) {
			return nil, fmt.Errorf("volume %q: want a name of lower-case letters, digits and -", v.Name)
		}
		if names[v.Name] {
			return nil, fmt.Errorf("volume %q is there twice", v.Name)
		}
		names[v.Name] = true
		if v.HostPath == nil && v.EmptyDir == nil && v.ConfigMap == nil && v.Secret == nil && v.Image == nil {
			return nil, fmt.Errorf("volume %q: want hostPath, emptyDir, configMap, secret or image", v.Name)
		}
		if v.HostPath != nil && !strings.HasPrefix(v.HostPath.Path, "/") {
			return nil, fmt.Errorf("volume %q: hostPath.path %q is not absolute", v.Name, v.HostPath.Path)
		}
	}
	return names, nil
}

func checkContainer(c *corev1.Container, init bool, volumes map[string]bool) error {
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
	}
	for _, p := range []struct {
		kind  string
		probe *corev1.Probe
	}{{"livenessProbe", c.LivenessProbe}, {"readinessProbe", c.ReadinessProbe}, {"startupProbe", c.StartupProbe}} {
		if p.probe == nil {
			continue
		}
		if err := checkProbe(c, p.probe); err != nil {
			return fmt.Errorf("%s: %w", p.kind, err)
		}
	}
	for _, m := range c.VolumeMounts {
		switch {
		case !volumes[m.Name]:
			return fmt.Errorf("volumeMounts: there is no volume %q", m.Name)
		case !strings.HasPrefix(m.MountPath, "/"):
			return fmt.Errorf("volumeMounts: mountPath %q is not absolute", m.MountPath)
		case m.SubPathExpr != "":
			return unsupported("volumeMounts.subPathExpr")
		case strings.HasPrefix(m.SubPath, "/") || strings.Contains("/"+m.SubPath+"/", "/../"):
			return fmt.Errorf("volumeMounts: subPath %q leaves the volume", m.SubPath)
		}
	}
	return nil
}
