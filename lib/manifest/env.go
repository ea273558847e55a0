// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Facts are what only the running pod knows.
type Facts struct {
	UID    string
	IPs    []string // of the pod, the first one is its main address
	HostIP string
	Node   string // name of this host
}

// environment is a container's, in order; a later value of a name takes the place of an earlier one.
func (p *Pod) environment(c *corev1.Container, f Facts) ([]*runtimeapi.KeyValue, error) {
	var names []string
	values := map[string]string{}
	set := func(name, value string) {
		if _, ok := values[name]; !ok {
			names = append(names, name)
		}
		values[name] = value
	}
	for _, from := range c.EnvFrom {
		data, err := p.source(from)
		if err != nil {
			return nil, fmt.Errorf("envFrom: %w", err)
		}
		for _, k := range slices.Sorted(maps.Keys(data)) {
			set(from.Prefix+k, string(data[k]))
		}
	}
	for _, e := range c.Env {
		value := expand(e.Value, values)
		if e.ValueFrom != nil {
			var ok bool
			var err error
			if value, ok, err = p.value(e.ValueFrom, f); err != nil {
				return nil, fmt.Errorf("env %s: %w", e.Name, err)
			}
			if !ok {
				continue
			}
		}
		set(e.Name, value)
	}
	var out []*runtimeapi.KeyValue
	for _, name := range names {
		out = append(out, &runtimeapi.KeyValue{Key: name, Value: []byte(values[name])})
	}
	return out, nil
}

// source is a ConfigMap or a Secret whose keys all become variables; an optional one that is not there is empty.
func (p *Pod) source(from corev1.EnvFromSource) (map[string][]byte, error) {
	switch {
	case from.ConfigMapRef != nil:
		return p.configMap(from.ConfigMapRef.Name, isSet(from.ConfigMapRef.Optional))
	case from.SecretRef != nil:
		return p.secret(from.SecretRef.Name, isSet(from.SecretRef.Optional))
	}
	return nil, fmt.Errorf("want configMapRef or secretRef: %w", errdefs.ErrInvalidArgument)
}

func isSet(b *bool) bool { return b != nil && *b }

// configMap gives the data of a ConfigMap; an optional one that is not there is empty.
func (p *Pod) configMap(name string, optional bool) (map[string][]byte, error) {
	m := p.ConfigMaps[name]
	if m == nil {
		return nil, missing("ConfigMap", name, optional)
	}
	data := map[string][]byte{}
	for k, v := range m.Data {
		data[k] = []byte(v)
	}
	for k, v := range m.BinaryData {
		data[k] = v
	}
	return data, nil
}

func (p *Pod) secret(name string, optional bool) (map[string][]byte, error) {
	s := p.Secrets[name]
	if s == nil {
		return nil, missing("Secret", name, optional)
	}
	return s.Data, nil
}

func missing(kind, name string, optional bool) error {
	if optional {
		return nil
	}
	return fmt.Errorf("there is no %s %q among the manifests: %w", kind, name, errdefs.ErrNotFound)
}

// value is what a variable is taken from; ok is false where that is optional and not there.
func (p *Pod) value(from *corev1.EnvVarSource, f Facts) (value string, ok bool, err error) {
	key := func(data map[string][]byte, err error, key, of string, optional bool) (string, bool, error) {
		if err != nil {
			return "", false, err
		}
		v, ok := data[key]
		if !ok && !optional {
			return "", false, fmt.Errorf("%s has no key %q: %w", of, key, errdefs.ErrNotFound)
		}
		return string(v), ok, nil
	}
	switch {
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		data, err := p.configMap(r.Name, isSet(r.Optional))
		return key(data, err, r.Key, "ConfigMap "+r.Name, isSet(r.Optional))
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		data, err := p.secret(r.Name, isSet(r.Optional))
		return key(data, err, r.Key, "Secret "+r.Name, isSet(r.Optional))
	case from.FieldRef != nil:
		value, err := p.field(from.FieldRef.FieldPath, f)
		return value, err == nil, err
	}
	return "", false, fmt.Errorf("valueFrom: want one of configMapKeyRef, secretKeyRef and fieldRef: %w", errdefs.ErrInvalidArgument)
}

// field is a field of the pod, as the downward API names it.
func (p *Pod) field(path string, f Facts) (string, error) {
	for of, pairs := range map[string]map[string]string{"metadata.labels": p.Pod.Labels, "metadata.annotations": p.Pod.Annotations} {
		if key, ok := strings.CutPrefix(path, of+"['"); ok && strings.HasSuffix(key, "']") {
			return pairs[strings.TrimSuffix(key, "']")], nil
		}
	}
	switch path {
	case "metadata.name":
		return p.Pod.Name, nil
	case "metadata.namespace":
		return p.Pod.Namespace, nil
	case "metadata.uid":
		return f.UID, nil
	case "spec.nodeName":
		return f.Node, nil
	case "spec.serviceAccountName":
		return p.Pod.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.hostIPs":
		return f.HostIP, nil
	case "status.podIP":
		return strings.Join(f.IPs[:min(1, len(f.IPs))], ""), nil
	case "status.podIPs":
		return strings.Join(f.IPs, ","), nil
	}
	return "", fmt.Errorf("fieldRef %q: there is no such field: %w", path, errdefs.ErrInvalidArgument)
}

// expand replaces $(NAME) by the value of a variable. One that is not set stays, and $$ is a dollar that begins nothing.
func expand(s string, values map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		s = s[i+1:]
		switch end := strings.IndexByte(s, ')'); {
		case s[0] == '$':
			b.WriteByte('$')
			s = s[1:]
		case s[0] == '(' && end > 0:
			v, ok := values[s[1:end]]
			if !ok {
				v = "$" + s[:end+1]
			}
			b.WriteString(v)
			s = s[end+1:]
		default:
			b.WriteByte('$')
		}
	}
}

func expandAll(all []string, env []*runtimeapi.KeyValue) []string {
	values := map[string]string{}
	for _, e := range env {
		values[e.Key] = string(e.Value)
	}
	out := slices.Clone(all)
	for i := range out {
		out[i] = expand(out[i], values)
	}
	return out
}
