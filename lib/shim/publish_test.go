// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	events "github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/taskapi"
)

// TestMessage: each event as it is sent says the same as containerd's own types.
func TestMessage(t *testing.T) {
	at := time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)
	for _, c := range []struct {
		ours   event.Payload
		theirs proto.Message
	}{
		{event.TaskCreate{ContainerID: "c", Bundle: "/b", Pid: 7, IO: &event.TaskIO{Stdin: "i", Stdout: "o", Stderr: "e", Terminal: true}}, new(events.TaskCreate)},
		{event.TaskStart{ContainerID: "c", Pid: 7}, new(events.TaskStart)},
		{event.TaskDelete{ContainerID: "c", ID: "e", Pid: 7, ExitStatus: 3, ExitedAt: at}, new(events.TaskDelete)},
		{event.TaskExit{ContainerID: "c", ID: "e", Pid: 7, ExitStatus: 3, ExitedAt: at}, new(events.TaskExit)},
		{event.TaskOOM{ContainerID: "c"}, new(events.TaskOOM)},
		{event.TaskExecAdded{ContainerID: "c", ExecID: "e"}, new(events.TaskExecAdded)},
		{event.TaskExecStarted{ContainerID: "c", ExecID: "e", Pid: 7}, new(events.TaskExecStarted)},
		{event.TaskPaused{ContainerID: "c"}, new(events.TaskPaused)},
		{event.TaskResumed{ContainerID: "c"}, new(events.TaskResumed)},
		{event.TaskCheckpointed{ContainerID: "c", Checkpoint: "/p"}, new(events.TaskCheckpointed)},
	} {
		packed := taskapi.NewAny(message(c.ours))
		if err := proto.Unmarshal(packed.Value, c.theirs); err != nil {
			t.Errorf("%T: %v", c.ours, err)
			continue
		}
		if len(c.theirs.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("%T: unknown fields", c.ours)
		}
		want := plain[any](t, c.ours, json.Marshal)
		got := plain(t, c.theirs, protojson.MarshalOptions{UseProtoNames: true}.Marshal)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%T: got %v, want %v", c.ours, got, want)
		}
		if name := string(c.theirs.ProtoReflect().Descriptor().FullName()); name != c.ours.Type() || name != packed.TypeURL || !strings.HasPrefix(c.ours.Topic(), "/tasks/") {
			t.Errorf("%s, %s", name, c.ours.Type())
		}
	}
}

func plain[T any](t *testing.T, v T, marshal func(T) ([]byte, error)) (m map[string]any) {
	t.Helper()
	b, err := marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}
