// SPDX-License-Identifier: Apache-2.0

package event

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	events "github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// payloads are all of them, by the topics that containerd documents.
var payloads = map[string]Payload{
	"/containers/create":  ContainerCreate{},
	"/containers/update":  ContainerUpdate{},
	"/containers/delete":  ContainerDelete{},
	"/content/create":     ContentCreate{},
	"/content/delete":     ContentDelete{},
	"/images/create":      ImageCreate{},
	"/images/update":      ImageUpdate{},
	"/images/delete":      ImageDelete{},
	"/namespaces/create":  NamespaceCreate{},
	"/namespaces/update":  NamespaceUpdate{},
	"/namespaces/delete":  NamespaceDelete{},
	"/snapshot/prepare":   SnapshotPrepare{},
	"/snapshot/commit":    SnapshotCommit{},
	"/snapshot/remove":    SnapshotRemove{},
	"/sandboxes/create":   SandboxCreate{},
	"/sandboxes/start":    SandboxStart{},
	"/sandboxes/exit":     SandboxExit{},
	"/tasks/create":       TaskCreate{},
	"/tasks/start":        TaskStart{},
	"/tasks/delete":       TaskDelete{},
	"/tasks/exit":         TaskExit{},
	"/tasks/oom":          TaskOOM{},
	"/tasks/exec-added":   TaskExecAdded{},
	"/tasks/exec-started": TaskExecStarted{},
	"/tasks/paused":       TaskPaused{},
	"/tasks/resumed":      TaskResumed{},
	"/tasks/checkpointed": TaskCheckpointed{},
}

// fill sets every field to something that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(1 << 40)
	case reflect.Uint32:
		v.SetUint(1<<32 - 1)
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"key": "value"}))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	default:
		panic(v.Type())
	}
}

// message gives a new message of containerd's of the given full name.
func message(t *testing.T, name string) protoreflect.ProtoMessage {
	t.Helper()
	m, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m.New().Interface()
}

// Every payload, full and empty, is read by containerd's message of its type, and says there what it
// says here.
func TestPayloadsAreContainerds(t *testing.T) {
	for topic, p := range payloads {
		if p.Topic() != topic {
			t.Errorf("%T has topic %s, want %s", p, p.Topic(), topic)
		}
		if !strings.HasSuffix(p.Type(), "."+reflect.TypeOf(p).Name()) {
			t.Errorf("%T has type %s", p, p.Type())
		}
		full := reflect.New(reflect.TypeOf(p)).Elem()
		fill(full)
		for _, v := range []any{p, full.Interface()} {
			data, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			m := message(t, p.Type())
			if err := protojson.Unmarshal(data, m); err != nil {
				t.Errorf("%s: %v", data, err)
				continue
			}
			theirs, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := plain(t, theirs), plain(t, data); !reflect.DeepEqual(got, want) {
				t.Errorf("%T: containerd reads %v, we wrote %v", v, got, want)
			}
		}
	}
}

// plain decodes JSON so that both forms of it compare: 64 bit numbers are text in protojson, and what is
// zero is left out.
func plain(t *testing.T, data []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return prune(m)
}

func prune(m map[string]any) map[string]any {
	for k, v := range m {
		switch v := v.(type) {
		case map[string]any:
			m[k] = prune(v)
		default:
			s := fmt.Sprint(v)
			if m[k] = s; s == "" || s == "0" || s == "0001-01-01T00:00:00Z" {
				delete(m, k)
			}
		}
	}
	return m
}

// Every message of containerd's has its payload.
func TestPayloadsAreAll(t *testing.T) {
	have := map[string]bool{}
	for _, p := range payloads {
		have[p.Type()] = true
	}
	files := []protoreflect.FileDescriptor{
		events.File_events_container_proto, events.File_events_content_proto, events.File_events_image_proto,
		events.File_events_namespace_proto, events.File_events_sandbox_proto, events.File_events_snapshot_proto, events.File_events_task_proto,
	}
	for _, f := range files {
		for i := range f.Messages().Len() {
			name := string(f.Messages().Get(i).FullName())
			if name != "containerd.events.TaskIO" && !have[name] { // TaskIO is a part of TaskCreate
				t.Errorf("%s has no payload", name)
			}
		}
	}
}
