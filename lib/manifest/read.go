// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
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

// Read reads manifests: YAML documents, or JSON, of the kinds Pod, ConfigMap and Secret of the API v1, or a List of them. Documents that
// have nothing, or only comments, are left out. Pods have their defaults filled in. A field that does not exist or is not supported is an
// error of kind InvalidArgument, which names the field.
func Read(manifests ...[]byte) (pods []*Pod, err error) {
	var configMaps []*corev1.ConfigMap
	var secrets []*corev1.Secret
	for _, data := range manifests {
		docs, err := split(data)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		for i, doc := range docs {
			err := readDocument(doc, true, &pods, &configMaps, &secrets)
			if err != nil && len(docs) > 1 {
				err = fmt.Errorf("document %d: %w", i+1, err)
			}
			if err != nil {
				return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
			}
		}
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("no document is a pod: %w", errdefs.ErrInvalidArgument)
	}
	seen := map[string]bool{}
	if err := twice(configMaps, secrets); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, p := range pods {
		if seen[p.Key()] {
			return nil, fmt.Errorf("pod %q is there twice: %w", p.Key(), errdefs.ErrInvalidArgument)
		}
		seen[p.Key()] = true
		p.refer(configMaps, secrets)
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

// split gives the documents of a manifest. One before the first separator is none where nothing is there.
func split(data []byte) (docs [][]byte, err error) {
	r := documents.NewYAMLReader(bufio.NewReaderSize(bytes.NewReader(data), 64<<10))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(doc)) > 0 {
			docs = append(docs, doc)
		}
	}
}

// readDocument reads one document. Of a List each item is one, which can be no List.
func readDocument(doc []byte, list bool, pods *[]*Pod, maps *[]*corev1.ConfigMap, secrets *[]*corev1.Secret) error {
	if len(doc) > maxDocument {
		return fmt.Errorf("a document of %d bytes: it may have %d", len(doc), maxDocument)
	}
	text, err := yaml.YAMLToJSON(doc)
	if err != nil {
		return fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "))
	}
	if string(text) == "null" { // nothing but comments
		return nil
	}
	var kind metav1.TypeMeta
	if err := json.Unmarshal(text, &kind); err != nil {
		return errors.New("a document is no object: want Pod, ConfigMap or Secret")
	}
	if kind.APIVersion != "v1" && kind.Kind != "" {
		return fmt.Errorf("kind %s of %q: want apiVersion v1, kinds Pod, ConfigMap and Secret", kind.Kind, kind.APIVersion)
	}
	switch kind.Kind {
	case "Pod":
		p := &corev1.Pod{}
		if err := decode(doc, text, p, &corev1.Pod{}); err != nil {
			return fmt.Errorf("pod: %w", err)
		}
		p.Namespace = cmp.Or(p.Namespace, metav1.NamespaceDefault)
		p.Status, p.ManagedFields = corev1.PodStatus{}, nil // of the pod that this was printed of
		setDefaults(p)
		*pods = append(*pods, &Pod{Pod: p})
	case "ConfigMap":
		m := &corev1.ConfigMap{}
		if err := decode(doc, text, m, &corev1.ConfigMap{}); err != nil {
			return fmt.Errorf("ConfigMap: %w", err)
		}
		*maps = append(*maps, m)
	case "Secret":
		s := &corev1.Secret{}
		if err := decode(doc, text, s, &corev1.Secret{}); err != nil {
			return fmt.Errorf("secret: %w", err)
		}
		for k, v := range s.StringData {
			if s.Data == nil {
				s.Data = map[string][]byte{}
			}
			s.Data[k] = []byte(v)
		}
		*secrets = append(*secrets, s)
	case "List":
		if !list {
			return errors.New("a List in a List")
		}
		return readList(doc, text, pods, maps, secrets)
	case "":
		return errors.New("a document has no kind: want Pod, ConfigMap or Secret")
	default:
		return fmt.Errorf("kind %s: want Pod, ConfigMap or Secret; what makes pods of a %s is a cluster", kind.Kind, kind.Kind)
	}
	return nil
}

func readList(doc, text []byte, pods *[]*Pod, maps *[]*corev1.ConfigMap, secrets *[]*corev1.Secret) error {
	type list struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ListMeta   `json:"metadata"`
		Items           []json.RawMessage `json:"items"`
	}
	var l list
	if err := decode(doc, text, &l, &list{}); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	for i, item := range l.Items {
		if err := readDocument(item, false, pods, maps, secrets); err != nil {
			return fmt.Errorf("items[%d]: %w", i, err)
		}
	}
	return nil
}

// decode reads a document, which text is as JSON, into an object. The error of a wrong one says which field it is; scratch is another object
// of the type.
func decode(doc, text []byte, object, scratch any) error {
	err := yaml.UnmarshalStrict(doc, object)
	if err == nil {
		return nil
	}
	const from = "error unmarshaling JSON: while decoding JSON: "
	what, decoding := strings.CutPrefix(err.Error(), from)
	if !decoding {
		return err // of YAML, with the line
	}
	if field := wrongField(text, scratch); field != "" {
		what = field + ": " + strings.TrimPrefix(what, "json: ")
	}
	return errors.New(what)
}

// maxSearch bounds how long the field of an error is looked for: the bytes that are decoded for that.
const maxSearch = 1 << 20

// wrongField gives the path of the field without which JSON would fit an object; empty: no single one. A value that is wrong by itself is
// told by its type's own decoder, which does not know where it is.
func wrongField(text []byte, scratch any) string {
	var root any
	if json.Unmarshal(text, &root) != nil {
		return ""
	}
	left := maxSearch
	fits := func() bool {
		data, err := json.Marshal(root)
		left -= len(data)
		return err == nil && yaml.UnmarshalStrict(data, scratch) == nil // which takes numbers for texts, as the document's own decoding does
	}
	path := ""
	for at := root; left > 0; {
		next := ""
		switch now := at.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(now)) {
				value := now[key]
				delete(now, key)
				found := fits()
				now[key] = value
				if found {
					at, next = value, "."+key
					break
				}
				if left <= 0 {
					break
				}
			}
		case []any:
			for i, value := range now {
				now[i] = nil
				found := fits()
				now[i] = value
				if found {
					at, next = value, fmt.Sprintf("[%d]", i)
					break
				}
				if left <= 0 {
					break
				}
			}
		}
		if next == "" {
			break
		}
		path += next
	}
	return strings.TrimPrefix(path, ".")
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
