// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/runtime/sandbox/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	apitypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// pairs has each message of ours and the generated one that it must equal.
var pairs = []struct {
	ours   func() message
	theirs func() proto.Message
}{
	{func() message { return new(CreateTaskRequest) }, func() proto.Message { return new(task.CreateTaskRequest) }},
	{func() message { return new(CreateTaskResponse) }, func() proto.Message { return new(task.CreateTaskResponse) }},
	{func() message { return new(StartRequest) }, func() proto.Message { return new(task.StartRequest) }},
	{func() message { return new(StartResponse) }, func() proto.Message { return new(task.StartResponse) }},
	{func() message { return new(DeleteRequest) }, func() proto.Message { return new(task.DeleteRequest) }},
	{func() message { return new(DeleteResponse) }, func() proto.Message { return new(task.DeleteResponse) }},
	{func() message { return new(ExecProcessRequest) }, func() proto.Message { return new(task.ExecProcessRequest) }},
	{func() message { return new(ResizePtyRequest) }, func() proto.Message { return new(task.ResizePtyRequest) }},
	{func() message { return new(StateRequest) }, func() proto.Message { return new(task.StateRequest) }},
	{func() message { return new(StateResponse) }, func() proto.Message { return new(task.StateResponse) }},
	{func() message { return new(KillRequest) }, func() proto.Message { return new(task.KillRequest) }},
	{func() message { return new(CloseIORequest) }, func() proto.Message { return new(task.CloseIORequest) }},
	{func() message { return new(PidsRequest) }, func() proto.Message { return new(task.PidsRequest) }},
	{func() message { return new(PidsResponse) }, func() proto.Message { return new(task.PidsResponse) }},
	{func() message { return new(CheckpointTaskRequest) }, func() proto.Message { return new(task.CheckpointTaskRequest) }},
	{func() message { return new(UpdateTaskRequest) }, func() proto.Message { return new(task.UpdateTaskRequest) }},
	{func() message { return new(WaitRequest) }, func() proto.Message { return new(task.WaitRequest) }},
	{func() message { return new(WaitResponse) }, func() proto.Message { return new(task.WaitResponse) }},
	{func() message { return new(StatsRequest) }, func() proto.Message { return new(task.StatsRequest) }},
	{func() message { return new(StatsResponse) }, func() proto.Message { return new(task.StatsResponse) }},
	{func() message { return new(ConnectRequest) }, func() proto.Message { return new(task.ConnectRequest) }},
	{func() message { return new(ConnectResponse) }, func() proto.Message { return new(task.ConnectResponse) }},
	{func() message { return new(ShutdownRequest) }, func() proto.Message { return new(task.ShutdownRequest) }},
	{func() message { return new(PauseRequest) }, func() proto.Message { return new(task.PauseRequest) }},
	{func() message { return new(ResumeRequest) }, func() proto.Message { return new(task.ResumeRequest) }},
	{func() message { return new(mountMessage) }, func() proto.Message { return new(apitypes.Mount) }},
	{func() message { return new(ProcessInfo) }, func() proto.Message { return new(tasktypes.ProcessInfo) }},
	{func() message { return new(Any) }, func() proto.Message { return new(anypb.Any) }},
	{func() message { return new(timestamp) }, func() proto.Message { return new(timestamppb.Timestamp) }},
	{func() message { return new(empty) }, func() proto.Message { return new(emptypb.Empty) }},
	{func() message { return new(TaskCreate) }, func() proto.Message { return new(events.TaskCreate) }},
	{func() message { return new(TaskIO) }, func() proto.Message { return new(events.TaskIO) }},
	{func() message { return new(TaskStart) }, func() proto.Message { return new(events.TaskStart) }},
	{func() message { return new(TaskDelete) }, func() proto.Message { return new(events.TaskDelete) }},
	{func() message { return new(TaskExit) }, func() proto.Message { return new(events.TaskExit) }},
	{func() message { return new(TaskOOM) }, func() proto.Message { return new(events.TaskOOM) }},
	{func() message { return new(TaskExecAdded) }, func() proto.Message { return new(events.TaskExecAdded) }},
	{func() message { return new(TaskExecStarted) }, func() proto.Message { return new(events.TaskExecStarted) }},
	{func() message { return new(TaskPaused) }, func() proto.Message { return new(events.TaskPaused) }},
	{func() message { return new(TaskResumed) }, func() proto.Message { return new(events.TaskResumed) }},
	{func() message { return new(TaskCheckpointed) }, func() proto.Message { return new(events.TaskCheckpointed) }},
	{func() message { return new(Envelope) }, func() proto.Message { return new(apitypes.Envelope) }},
	{func() message { return new(forwardRequest) }, func() proto.Message { return new(ttrpcevents.ForwardRequest) }},
	{func() message { return new(Options) }, func() proto.Message { return new(options.Options) }},
	{func() message { return new(CheckpointOptions) }, func() proto.Message { return new(options.CheckpointOptions) }},
	{func() message { return new(ProcessDetails) }, func() proto.Message { return new(options.ProcessDetails) }},
	{func() message { return new(ConfigOptions) }, func() proto.Message { return new(runtimeoptions.Options) }},
	{func() message { return new(RuntimeInfo) }, func() proto.Message { return new(apitypes.RuntimeInfo) }},
	{func() message { return new(RuntimeVersion) }, func() proto.Message { return new(apitypes.RuntimeVersion) }},
	{func() message { return new(MountCapabilities) }, func() proto.Message { return new(apitypes.MountCapabilities) }},
	{func() message { return new(CreateSandboxRequest) }, func() proto.Message { return new(sandbox.CreateSandboxRequest) }},
	{func() message { return new(StartSandboxRequest) }, func() proto.Message { return new(sandbox.StartSandboxRequest) }},
	{func() message { return new(StartSandboxResponse) }, func() proto.Message { return new(sandbox.StartSandboxResponse) }},
	{func() message { return new(PlatformRequest) }, func() proto.Message { return new(sandbox.PlatformRequest) }},
	{func() message { return new(PlatformResponse) }, func() proto.Message { return new(sandbox.PlatformResponse) }},
	{func() message { return new(StopSandboxRequest) }, func() proto.Message { return new(sandbox.StopSandboxRequest) }},
	{func() message { return new(WaitSandboxRequest) }, func() proto.Message { return new(sandbox.WaitSandboxRequest) }},
	{func() message { return new(WaitSandboxResponse) }, func() proto.Message { return new(sandbox.WaitSandboxResponse) }},
	{func() message { return new(SandboxStatusRequest) }, func() proto.Message { return new(sandbox.SandboxStatusRequest) }},
	{func() message { return new(SandboxStatusResponse) }, func() proto.Message { return new(sandbox.SandboxStatusResponse) }},
	{func() message { return new(PingRequest) }, func() proto.Message { return new(sandbox.PingRequest) }},
	{func() message { return new(ShutdownSandboxRequest) }, func() proto.Message { return new(sandbox.ShutdownSandboxRequest) }},
	{func() message { return new(SandboxMetricsRequest) }, func() proto.Message { return new(sandbox.SandboxMetricsRequest) }},
	{func() message { return new(SandboxMetricsResponse) }, func() proto.Message { return new(sandbox.SandboxMetricsResponse) }},
	{func() message { return new(empty) }, func() proto.Message { return new(sandbox.CreateSandboxResponse) }},
	{func() message { return new(empty) }, func() proto.Message { return new(sandbox.StopSandboxResponse) }},
	{func() message { return new(empty) }, func() proto.Message { return new(sandbox.PingResponse) }},
	{func() message { return new(empty) }, func() proto.Message { return new(sandbox.ShutdownSandboxResponse) }},
	{func() message { return new(Platform) }, func() proto.Message { return new(apitypes.Platform) }},
	{func() message { return new(Metric) }, func() proto.Message { return new(apitypes.Metric) }},
	{func() message { return new(pair) }, func() proto.Message { return new(ttrpc.KeyValue) }},
}

// fill sets every field of m, with its name in the value where it can be.
func fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.IsMap():
			mp := m.Mutable(fd).Map()
			for _, k := range []string{"", "a", "b"} {
				mp.Set(protoreflect.ValueOfString(k).MapKey(), protoreflect.ValueOfString("value of "+k))
			}
		case fd.IsList():
			l := m.Mutable(fd).List()
			for range 3 {
				if fd.Message() != nil {
					e := l.NewElement()
					fill(e.Message())
					l.Append(e)
				} else {
					l.Append(protoreflect.ValueOfString(fmt.Sprint("element ", l.Len())))
				}
			}
			if fd.Message() != nil {
				l.Append(l.NewElement())
			} else {
				l.Append(protoreflect.ValueOfString(""))
			}
		case fd.Message() != nil:
			fill(m.Mutable(fd).Message())
		default:
			m.Set(fd, value(fd))
		}
	}
}

func value(fd protoreflect.FieldDescriptor) protoreflect.Value {
	n := fd.Number()
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("the " + string(fd.Name()) + " ü")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{0, 0xff, byte(n)})
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(math.MaxUint32 - uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(math.MaxUint32 + uint64(n))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(900_000_000 + int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1<<40 + int64(n))
	}
	panic("no value for " + fd.FullName())
}

// same compares ours with theirs field by field, by name.
func same(ours reflect.Value, theirs protoreflect.Message) error {
	if t, ok := ours.Interface().(time.Time); ok {
		if ts := theirs.Interface().(*timestamppb.Timestamp); !ts.AsTime().Equal(t) {
			return fmt.Errorf("time %v, want %v", t, ts.AsTime())
		}
		return nil
	}
	fields := theirs.Descriptor().Fields()
	if ours.NumField() != fields.Len() {
		return fmt.Errorf("%s: %d fields, want %d", ours.Type(), ours.NumField(), fields.Len())
	}
	for i := range fields.Len() {
		fd := fields.Get(i)
		name := strings.ReplaceAll(string(fd.Name()), "_", "")
		got := ours.FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, name) })
		if !got.IsValid() {
			return fmt.Errorf("%s has no field %s", ours.Type(), fd.Name())
		}
		if err := sameField(got, fd, theirs.Get(fd)); err != nil {
			return fmt.Errorf("%s: %w", fd.FullName(), err)
		}
	}
	return nil
}

func sameField(got reflect.Value, fd protoreflect.FieldDescriptor, want protoreflect.Value) error {
	switch {
	case fd.IsMap():
		if got.Len() != want.Map().Len() {
			return fmt.Errorf("%d entries, want %d", got.Len(), want.Map().Len())
		}
		for _, k := range got.MapKeys() {
			if w := want.Map().Get(protoreflect.ValueOfString(k.String()).MapKey()); w.String() != got.MapIndex(k).String() {
				return fmt.Errorf("entry %q is %q", k, got.MapIndex(k))
			}
		}
		return nil
	case fd.IsList():
		if got.Len() != want.List().Len() {
			return fmt.Errorf("%d elements, want %d", got.Len(), want.List().Len())
		}
		for i := range got.Len() {
			if err := sameScalar(got.Index(i), fd, want.List().Get(i)); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
		}
		return nil
	}
	return sameScalar(got, fd, want)
}

func sameScalar(got reflect.Value, fd protoreflect.FieldDescriptor, want protoreflect.Value) error {
	if fd.Message() != nil {
		if got.Kind() == reflect.Pointer {
			if got.IsNil() != !want.Message().IsValid() {
				return fmt.Errorf("nil is %v", got.IsNil())
			}
			if got.IsNil() {
				return nil
			}
			got = got.Elem()
		}
		return same(got, want.Message())
	}
	var w any = want.Interface()
	if fd.Enum() != nil {
		w = int32(want.Enum())
	}
	if g := got; fmt.Sprint(g) != fmt.Sprint(w) && !(g.CanInt() && g.Int() == reflect.ValueOf(w).Int()) {
		return fmt.Errorf("%v, want %v", g, w)
	}
	return nil
}

func TestMessagesEqualGenerated(t *testing.T) {
	for _, p := range pairs {
		ours, theirs := p.ours(), p.theirs()
		name := string(theirs.ProtoReflect().Descriptor().FullName())
		t.Run(name, func(t *testing.T) {
			fill(theirs.ProtoReflect())
			b, err := proto.Marshal(theirs)
			if err != nil {
				t.Fatal(err)
			}
			if err := decode(b, ours); err != nil {
				t.Fatal(err)
			}
			if err := same(reflect.ValueOf(ours).Elem(), theirs.ProtoReflect()); err != nil {
				t.Error(err)
			}
			back := p.theirs()
			if err := proto.Unmarshal(encode(nil, ours), back); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(back, theirs) {
				t.Errorf("generated type reads\n%v\nwant\n%v", back, theirs)
			}
		})
		t.Run(name+"/empty", func(t *testing.T) {
			if b := encode(nil, p.ours()); len(b) != 0 {
				t.Errorf("empty message is % x", b)
			}
		})
	}
}

func TestTypeNames(t *testing.T) {
	n := 0
	for _, p := range pairs {
		m, ok := p.ours().(typed)
		if !ok {
			continue
		}
		n++
		theirs, err := typeurl.MarshalAnyToProto(full(reflect.TypeOf(p.theirs())))
		if err != nil {
			t.Fatal(err)
		}
		if err := Unmarshal(theirs.Value, m); err != nil {
			t.Fatal(err)
		}
		ours := NewAny(m)
		if ours.TypeURL != theirs.TypeUrl || !ours.Is(m.typeName()) {
			t.Errorf("%T is %q, want %q", m, ours.TypeURL, theirs.TypeUrl)
		}
		back := p.ours().(typed)
		for _, url := range []string{theirs.TypeUrl, "type.googleapis.com/" + theirs.TypeUrl} {
			if err := (&Any{TypeURL: url, Value: ours.Value}).To(back); err != nil || !proto.Equal(unmarshal(t, p.theirs(), Marshal(back)), unmarshal(t, p.theirs(), theirs.Value)) {
				t.Errorf("%s: %v, %+v", url, err, back)
			}
			back = p.ours().(typed)
		}
		for _, a := range []*Any{nil, {}, {TypeURL: "x" + ours.TypeURL}, {TypeURL: ours.TypeURL + "/"}} {
			if err := a.To(back); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("%v: %v", a, err)
			}
		}
		if err := (&Any{TypeURL: ours.TypeURL, Value: []byte{0xff}}).To(back); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("rubbish: %v", err)
		}
	}
	if n != 15 {
		t.Errorf("%d types compared", n)
	}
	if err := Unmarshal(make([]byte, maxMessage+1), new(empty)); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("large message: %v", err)
	}
}

// unmarshal is b as a generated message.
func unmarshal(t *testing.T, m proto.Message, b []byte) proto.Message {
	t.Helper()
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEveryMethodsMessagesAreCompared(t *testing.T) {
	known := map[reflect.Type]bool{}
	for _, p := range pairs {
		known[reflect.TypeOf(p.ours())] = true
	}
	server, sandboxes := reflect.TypeFor[Server](), reflect.TypeFor[SandboxServer]()
	if server.NumMethod() != reflect.TypeFor[task.TTRPCTaskService]().NumMethod() {
		t.Errorf("server has %d methods", server.NumMethod())
	}
	// All but UpdateSandbox.
	if sandboxes.NumMethod() != reflect.TypeFor[sandbox.TTRPCSandboxService]().NumMethod()-1 {
		t.Errorf("sandbox server has %d methods", sandboxes.NumMethod())
	}
	var methods []reflect.Method
	methods = slices.AppendSeq(methods, server.Methods())
	methods = slices.AppendSeq(methods, sandboxes.Methods())
	for _, m := range methods {
		for in := range m.Type.Ins() {
			if in.Kind() == reflect.Pointer && !known[in] {
				t.Errorf("%s is not in pairs", in)
			}
		}
		for out := range m.Type.Outs() {
			if out.Kind() == reflect.Pointer && !known[out] {
				t.Errorf("%s is not in pairs", out)
			}
		}
	}
}

func TestEnvelopeEqualsGenerated(t *testing.T) {
	q := request{service: "s", method: "m", payload: []byte("p"), timeout: -5, metadata: []pair{{"k", "v"}, {"k", "w"}}}
	var theirs ttrpc.Request
	if err := proto.Unmarshal(encode(nil, &q), &theirs); err != nil {
		t.Fatal(err)
	}
	want := &ttrpc.Request{Service: "s", Method: "m", Payload: []byte("p"), TimeoutNano: -5,
		Metadata: []*ttrpc.KeyValue{{Key: "k", Value: "v"}, {Key: "k", Value: "w"}}}
	if !proto.Equal(&theirs, want) {
		t.Errorf("request is %v", &theirs)
	}
	b, _ := proto.Marshal(want)
	var back request
	if err := decode(b, &back); err != nil {
		t.Fatal(err)
	}
	q.metadata = nil
	if !reflect.DeepEqual(back, q) {
		t.Errorf("request reads %+v, want %+v", back, q)
	}

	a := response{status: status{code: 5, text: "gone"}, payload: []byte("p")}
	var theirA ttrpc.Response
	if err := proto.Unmarshal(encode(nil, &a), &theirA); err != nil {
		t.Fatal(err)
	}
	detail, _ := anypb.New(&spb.Status{Code: 3})
	wantA := &ttrpc.Response{Status: &spb.Status{Code: 5, Message: "gone"}, Payload: []byte("p")}
	if !proto.Equal(&theirA, wantA) {
		t.Errorf("response is %v", &theirA)
	}
	wantA.Status.Details = []*anypb.Any{detail}
	b, _ = proto.Marshal(wantA)
	var backA response
	if err := decode(b, &backA); err != nil || !reflect.DeepEqual(backA, a) {
		t.Errorf("response reads %+v, %v", backA, err)
	}
}

func TestExecID(t *testing.T) {
	theirs, err := typeurl.MarshalAnyToProto(&options.ProcessDetails{ExecID: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for want, info := range map[string]*Any{
		"x": {TypeURL: theirs.TypeUrl, Value: theirs.Value},
		"":  {TypeURL: "other", Value: theirs.Value},
	} {
		if id := (&ProcessInfo{Info: info}).ExecID(); id != want {
			t.Errorf("%v is exec %q", info, id)
		}
	}
	for _, info := range []*Any{nil, {TypeURL: theirs.TypeUrl, Value: theirs.Value[:2]}} {
		if id := (&ProcessInfo{Info: info}).ExecID(); id != "" {
			t.Errorf("%v is exec %q", info, id)
		}
	}
}

func TestStatusNumbers(t *testing.T) {
	for n, name := range tasktypes.Status_name {
		if s := Status(n).String(); s != strings.ToLower(name) {
			t.Errorf("status %d is %q, want %q", n, s, name)
		}
	}
	if s := Status(77).String(); s != "unknown" {
		t.Errorf("status 77 is %q", s)
	}
}

func TestDecodeBoundsAllocation(t *testing.T) {
	for _, p := range pairs {
		theirs := p.theirs().ProtoReflect()
		fields := theirs.Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			if fd.Kind() == protoreflect.StringKind && !fd.IsList() {
				continue
			}
			// Empty elements are the cheapest for the sender.
			b := bytes.Repeat([]byte{byte(fd.Number())<<3 | 2, 0}, maxMessage/2)
			allocated := allocatedBy(func() { decode(b, p.ours()) })
			if limit := uint64(48 * len(b)); allocated > limit {
				t.Errorf("%s: %d bytes allocated for %d", fd.FullName(), allocated, len(b))
			}
		}
	}
}

func allocatedBy(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// strange tells of timestamps that time.Time holds otherwise than the proto:
// out of range, or the zero time, which is the absent one here.
func strange(m protoreflect.Message) bool {
	if ts, ok := m.Interface().(*timestamppb.Timestamp); ok {
		return ts.Nanos < 0 || ts.Nanos > 999_999_999 || ts.AsTime().IsZero()
	}
	found := false
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Message() != nil && !fd.IsMap() && !fd.IsList() {
			found = found || strange(v.Message())
		}
		return !found
	})
	return found
}

// FuzzMessages holds each decoder against the generated one: the same bytes
// are accepted, with the same meaning.
func FuzzMessages(f *testing.F) {
	for i, p := range pairs {
		m := p.theirs()
		fill(m.ProtoReflect())
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), b)
		f.Add(byte(i), append(b, b...))
		f.Add(byte(i), append(b, 0x7b, 0x08, 0x01, 0x7c))
		f.Add(byte(i), b[:len(b)/2])
		f.Add(byte(i), []byte{0x80, 0x80, 0x80, 0x80, 0x30, 0}) // field number above 2^29
		f.Add(byte(i), binary.AppendUvarint(nil, math.MaxUint64))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		p := pairs[int(which)%len(pairs)]
		ours, theirs := p.ours(), p.theirs()
		var err error
		if n := allocatedBy(func() { err = decode(b, ours) }); n > uint64(64*len(b)+(64<<10)) {
			t.Errorf("%d bytes allocated for %d", n, len(b))
		}
		theirErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, theirs)
		if (err == nil) != (theirErr == nil) {
			t.Fatalf("%T: ours: %v, generated: %v", theirs, err, theirErr)
		}
		if err != nil || strange(theirs.ProtoReflect()) {
			return
		}
		back := p.theirs()
		if err := proto.Unmarshal(encode(nil, ours), back); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(back, theirs) {
			t.Fatalf("%T: ours:\n%v\ngenerated:\n%v", theirs, back, theirs)
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	q := request{service: taskService, method: "Start", payload: []byte("p"), timeout: 1, metadata: []pair{{"k", "v"}}}
	f.Add(encode(nil, &q))
	a := response{status: status{code: 5, text: "gone"}, payload: []byte("p")}
	f.Add(encode(nil, &a))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q request
		var theirs ttrpc.Request
		err := decode(b, &q)
		if proto.Unmarshal(b, &theirs) == nil {
			if err != nil {
				t.Fatal(err)
			}
			if q.service != theirs.Service || q.method != theirs.Method || q.timeout != theirs.TimeoutNano || !bytes.Equal(q.payload, theirs.Payload) {
				t.Errorf("%+v, generated: %v", q, &theirs)
			}
		}
		var a response
		var theirA ttrpc.Response
		err = decode(b, &a)
		if proto.Unmarshal(b, &theirA) == nil {
			if err != nil {
				t.Fatal(err)
			}
			if a.status.code != theirA.Status.GetCode() || a.status.text != theirA.Status.GetMessage() || !bytes.Equal(a.payload, theirA.Payload) {
				t.Errorf("%+v, generated: %v", a, &theirA)
			}
		}
		a.status.err()
	})
}
