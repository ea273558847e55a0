// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
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
	if err := twice(maps, secrets); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
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

// twice refuses two ConfigMaps or two Secrets of one name.
func twice(maps []*corev1.ConfigMap, secrets []*corev1.Secret) error {
	var all []string
	for _, m := range maps {
		all = append(all, "ConfigMap "+cmp.Or(m.Namespace, metav1.NamespaceDefault)+"/"+m.Name)
	}
	for _, s := range secrets {
		all = append(all, "Secret "+cmp.Or(s.Namespace, metav1.NamespaceDefault)+"/"+s.Name)
	}
	seen := map[string]bool{}
	for _, one := range all {
		if seen[one] {
			return fmt.Errorf("%s is there twice", one)
		}
		seen[one] = true
	}
	return nil
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
	*s.TerminationGracePeriodSeconds = min(*s.TerminationGracePeriodSeconds, maxSeconds)
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
