// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Names of the fields of each record. One that ends in a dot has parts with names of their own, such as labels.
var (
	ContainerFields = []string{"id", "image", "runtime.name", "labels."}
	ImageFields     = []string{"name", "target.digest", "target.mediatype", "labels.", "annotations."}
	SnapshotFields  = []string{"kind", "name", "parent", "labels."}
	ContentFields   = []string{"digest", "size", "labels."}
	IngestFields    = []string{"ref"}
	LeaseFields     = []string{"id", "labels."}
	NamespaceFields = []string{"name", "labels."}
	EventFields     = []string{"namespace", "topic", "event."}
)

// Container gives the [ContainerFields]; image is the name of the image's record, and runtime the runtime's name.
func Container(id, image, runtime string, labels map[string]string) Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "id":
			return text(id)
		case "image":
			return text(image)
		case "runtime":
			if part(path) == "name" {
				return text(runtime)
			}
		case "labels":
			return key(labels, path[1:])
		}
		return "", false
	}
}

// Image gives the [ImageFields].
func Image(name string, target ocispec.Descriptor, labels map[string]string) Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "name":
			return text(name)
		case "target":
			switch part(path) {
			case "digest":
				return text(target.Digest.String())
			case "mediatype":
				return text(target.MediaType)
			}
		case "labels":
			return key(labels, path[1:])
		case "annotations":
			return key(target.Annotations, path[1:])
		}
		return "", false
	}
}

// Snapshot gives the [SnapshotFields]; kind is active, view or committed. A snapshot always has a parent in the sense
// of a filter: that of the lowest one is empty.
func Snapshot(kind, name, parent string, labels map[string]string) Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "kind":
			return text(kind)
		case "name":
			return name, true
		case "parent":
			return parent, true
		case "labels":
			return key(labels, path[1:])
		}
		return "", false
	}
}

// Content gives the [ContentFields]. Unlike in containerd, the size, in bytes, is a field, too.
func Content(digest string, size int64, labels map[string]string) Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "digest":
			return text(digest)
		case "size":
			return strconv.FormatInt(size, 10), true
		case "labels":
			return key(labels, path[1:])
		}
		return "", false
	}
}

// Ingest gives the [IngestFields].
func Ingest(ref string) Fields {
	return func(path []string) (string, bool) {
		return ref, path[0] == "ref"
	}
}

// Lease gives the [LeaseFields].
func Lease(id string, labels map[string]string) Fields { return named("id", id, labels) }

// Namespace gives the [NamespaceFields]. Containerd's API lists namespaces without a filter.
func Namespace(name string, labels map[string]string) Fields { return named("name", name, labels) }

// named gives a name and labels.
func named(field, name string, labels map[string]string) Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case field:
			return text(name)
		case "labels":
			return key(labels, path[1:])
		}
		return "", false
	}
}

// Event gives the [EventFields]. payload is the event's message as JSON with its proto names; the parts of its field
// labels are labels. Unlike in containerd, the message's numbers and times are fields, too.
func Event(namespace, topic string, payload []byte) Fields {
	message := sync.OnceValue(func() any {
		var v any
		d := json.NewDecoder(bytes.NewReader(payload))
		d.UseNumber()
		if d.Decode(&v) != nil {
			return nil
		}
		return v
	})
	return func(path []string) (string, bool) {
		switch path[0] {
		case "namespace":
			return text(namespace)
		case "topic":
			return text(topic)
		case "event":
			return inside(message(), path[1:])
		}
		return "", false
	}
}

// inside follows a path into a JSON value.
func inside(v any, path []string) (string, bool) {
	for i, name := range path {
		object, ok := v.(map[string]any)
		if !ok {
			return "", false
		}
		if i == 1 && path[0] == "labels" {
			v = object[strings.Join(path[1:], ".")]
			s, ok := v.(string)
			return s, ok
		}
		v = object[name]
	}
	switch v := v.(type) {
	case string:
		return text(v)
	case json.Number:
		return text(v.String())
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// part is the second name of a path, or empty.
func part(path []string) string {
	if len(path) < 2 {
		return ""
	}
	return path[1]
}

// key looks up what a path says behind "labels".
func key(m map[string]string, path []string) (string, bool) {
	v, ok := m[strings.Join(path, ".")]
	return v, ok
}

// text is a field that is not there when it is empty.
func text(s string) (string, bool) { return s, s != "" }
