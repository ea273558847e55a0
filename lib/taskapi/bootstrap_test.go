// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	apitypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// theirResult is the answer of a shim that is built with containerd 2.4.
func theirResult(t testing.TB, version int32, address, protocol string) []byte {
	r := &bootapi.BootstrapResult{Version: version, Address: address, Protocol: protocol,
		Capabilities: []bootapi.Capability{7}, Metadata: map[string]string{"note": "line\n"}}
	if err := r.AddExtension(&apitypes.MountCapabilities{Types: []string{"erofs"}}); err != nil {
		t.Fatal(err)
	}
	r.Extensions = append(r.Extensions, &bootapi.Extension{})
	return marshal(t, r)
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseBootstrap(t *testing.T) {
	const address = "unix:///run/s/0"
	erofs := []Any{{TypeURL: "type.googleapis.com/containerd.types.MountCapabilities", Value: []byte("\n\x05erofs")}}
	for said, want := range map[string]Bootstrap{
		address:                       {Version: 2, Address: address, Protocol: "ttrpc"},
		"\n " + address + "\n":        {Version: 2, Address: address, Protocol: "ttrpc"},
		`{"address":"unix:///a \n|"}`: {Version: 2, Address: "unix:///a \n|", Protocol: "ttrpc"},
		`{"version":2,"address":"unix:///run/s/0","protocol":"ttrpc"}` + "\n":                 {Version: 2, Address: address, Protocol: "ttrpc"},
		`{"version":3,"address":"unix:///run/s/0","protocol":"TTRPC","metadata":{"a":["b"]}}`: {Version: 3, Address: address, Protocol: "ttrpc"},
		string(theirResult(t, 3, address, "ttrpc")):                                           {Version: 3, Address: address, Protocol: "ttrpc", Extensions: erofs},
		string(theirResult(t, 2, address, "")):                                                {Version: 2, Address: address, Protocol: "ttrpc", Extensions: erofs},
	} {
		s, err := ParseBootstrap([]byte(said))
		if err != nil || !reflect.DeepEqual(s, want) {
			t.Errorf("%q: %+v, %v", said, s, err)
		}
	}
	s, err := ParseBootstrap(theirResult(t, 3, address, "ttrpc"))
	if err != nil {
		t.Fatal(err)
	}
	var mounts MountCapabilities
	if ok, err := s.Extension(&mounts); !ok || err != nil || !reflect.DeepEqual(mounts, MountCapabilities{Types: []string{"erofs"}}) {
		t.Errorf("extension: %v, %v, %+v", ok, err, mounts)
	}
	if ok, err := s.Extension(new(Options)); ok || err != nil {
		t.Errorf("extension that is not there: %v, %v", ok, err)
	}
}

func TestParseBootstrapRefuses(t *testing.T) {
	const address = "unix:///run/s/0"
	for said, kind := range map[string]error{
		"":                               errdefs.ErrInvalidArgument,
		" \n":                            errdefs.ErrInvalidArgument,
		"hello":                          errdefs.ErrInvalidArgument,
		"panic: runtime error":           errdefs.ErrInvalidArgument,
		"/run/s/0":                       errdefs.ErrInvalidArgument,
		"unix:run/s":                     errdefs.ErrInvalidArgument,
		"unix:///run/s\x00":              errdefs.ErrInvalidArgument,
		"vsock://3:1024":                 errdefs.ErrInvalidArgument,
		"{":                              errdefs.ErrInvalidArgument,
		"{}":                             errdefs.ErrInvalidArgument,
		`{"version":2} trailing`:         errdefs.ErrInvalidArgument,
		`{"version":"2"}`:                errdefs.ErrInvalidArgument,
		`{"version":2,"address":"/run"}`: errdefs.ErrInvalidArgument,
		`{"version":4,"address":"unix:///run/s/0","protocol":"ttrpc"}`: errdefs.ErrNotImplemented,
		`{"version":1,"address":"unix:///run/s/0","protocol":"ttrpc"}`: errdefs.ErrNotImplemented,
		`{"version":3,"address":"unix:///run/s/0","protocol":"grpc"}`:  errdefs.ErrNotImplemented,
		string(theirResult(t, 3, address, "grpc")):                     errdefs.ErrNotImplemented,
		string(theirResult(t, 0, address, "ttrpc")):                    errdefs.ErrNotImplemented,
		string(theirResult(t, 3, "", "ttrpc")):                         errdefs.ErrInvalidArgument,
		string(theirResult(t, 3, "vsock://3:1024", "ttrpc")):           errdefs.ErrInvalidArgument,
		string(theirResult(t, 3, address, "ttrpc")[:40]):               errdefs.ErrInvalidArgument,
		strings.Repeat("x", maxBootstrap+1):                            errdefs.ErrInvalidArgument,
		strings.Repeat(" ", maxBootstrap) + address:                    errdefs.ErrInvalidArgument,
		strings.Repeat("\x32\x02\x0a\x00", maxExtensions+1):            errdefs.ErrInvalidArgument,
	} {
		if _, err := ParseBootstrap([]byte(said)); !errors.Is(err, kind) || len(err.Error()) > 1000 {
			t.Errorf("%.100q: %v", said, err)
		}
	}
}

func TestBootstrapAnswers(t *testing.T) {
	s := Bootstrap{Version: 3, Address: "unix:///run/s/0", Protocol: "ttrpc", Extensions: []Any{*NewAny(&MountCapabilities{Transforms: []string{"mkdir"}})}}
	var theirs bootapi.BootstrapResult
	if err := proto.Unmarshal(s.Message(), &theirs); err != nil {
		t.Fatal(err)
	}
	var mounts apitypes.MountCapabilities
	found, err := theirs.FindExtension(&mounts)
	if theirs.Version != 3 || theirs.Address != s.Address || theirs.Protocol != "ttrpc" || !found || err != nil || mounts.Transforms[0] != "mkdir" {
		t.Errorf("message is %v, %v", &theirs, err)
	}
	const want = `{"version":3,"address":"unix:///run/s/0","protocol":"ttrpc"}`
	if got := string(s.JSON()); got != want {
		t.Errorf("JSON is %s", got)
	}
	// containerd tries the message first.
	if err := proto.Unmarshal(s.JSON(), &theirs); err == nil {
		t.Errorf("JSON is a message: %v", &theirs)
	}
}

// theirParams is what containerd 2.4 writes to a shim's stdin.
func theirParams(t testing.TB) *bootapi.BootstrapParams {
	dir := "/run/x"
	p := &bootapi.BootstrapParams{InstanceID: "c1", Namespace: "k8s.io", LogLevel: bootapi.LogLevel_LOG_LEVEL_DEBUG,
		ContainerdVersion: "2.4.2", ContainerdTtrpcAddress: "/t", ContainerdGrpcAddress: "/g", ContainerdBinary: "/b", SocketDir: &dir}
	a, err := typeurl.MarshalAnyToProto(&options.Options{ShimCgroup: "/cg"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []proto.Message{a, &apitypes.MountCapabilities{}} {
		if err := p.AddExtension(e); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestParseStart(t *testing.T) {
	p, message, err := ParseStart(marshal(t, theirParams(t)), "c1", "k8s.io")
	want := BootstrapParams{"c1", "k8s.io", -4, "2.4.2", "/t", "/g", "/b", []Any{
		{TypeURL: "containerd.runc.v1.Options", Value: []byte("\x1a\x03/cg")},
		{TypeURL: "type.googleapis.com/containerd.types.MountCapabilities"},
	}, "/run/x"}
	if err != nil || !message || !reflect.DeepEqual(p, want) {
		t.Errorf("%+v, %v, %v", p, message, err)
	}
	var o Options
	if ok, err := p.Extension(&o); !ok || err != nil || o.ShimCgroup != "/cg" {
		t.Errorf("options: %v, %v, %+v", ok, err, o)
	}
	var back bootapi.BootstrapParams
	if err := proto.Unmarshal(Marshal(&want), &back); err != nil || !proto.Equal(&back, theirParams(t)) {
		t.Errorf("encoded %v, %v", &back, err)
	}

	// Before 2.3: options, not always UTF-8 where a namespace would be, or nothing.
	old := NewAny(&Options{IoUID: 1 << 31, BinaryName: "crun"})
	p, message, err = ParseStart(Marshal(old), "c1", "k8s.io")
	if err != nil || message || !reflect.DeepEqual(p, BootstrapParams{ID: "c1", Namespace: "k8s.io", Extensions: []Any{*old}}) {
		t.Errorf("old: %+v, %v, %v", p, message, err)
	}
	if back := p.Old(); !bytes.Equal(back, Marshal(old)) {
		t.Errorf("old options are %q", back)
	}
	p, message, err = ParseStart(nil, "c1", "k8s.io")
	if err != nil || message || !reflect.DeepEqual(p, BootstrapParams{ID: "c1", Namespace: "k8s.io"}) {
		t.Errorf("nothing: %+v, %v, %v", p, message, err)
	}
	if back := p.Old(); back != nil {
		t.Errorf("no options are %q", back)
	}

	for name, b := range map[string][]byte{
		"of another":       marshal(t, &bootapi.BootstrapParams{InstanceID: "c2", Namespace: "k8s.io", ContainerdVersion: "2.4.2"}),
		"of no namespace":  marshal(t, &bootapi.BootstrapParams{InstanceID: "c1", ContainerdVersion: "2.4.2"}),
		"text":             []byte("hello"),
		"half":             marshal(t, theirParams(t))[:19],
		"bad extension":    append(marshal(t, theirParams(t)), 0x42, 2, 0x0a, 9),
		"no type":          {0x12, 1, 'x'},
		"large":            bytes.Repeat([]byte{0x42, 0}, maxMessage),
		"many extensions ": append(marshal(t, theirParams(t)), bytes.Repeat([]byte{0x42, 2, 0x0a, 0}, maxExtensions)...),
	} {
		if _, message, err := ParseStart(b, "c1", "k8s.io"); message || !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v, %v", name, message, err)
		}
	}
}

func FuzzParseBootstrap(f *testing.F) {
	f.Add([]byte("unix:///run/s/0\n"))
	f.Add([]byte(`{"version":3,"address":"unix:///run/s/0","protocol":"ttrpc"}`))
	f.Add([]byte(`{"version":2,"address":"unix:///run/s/0","protocol":"grpc"}`))
	f.Add(theirResult(f, 3, "unix:///run/s/0", "ttrpc"))
	f.Add([]byte("{\x0a\x01x|"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseBootstrap(b)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) && !errors.Is(err, errdefs.ErrNotImplemented) {
				t.Errorf("kind of %v", err)
			}
			return
		}
		if s.Version != 2 && s.Version != 3 || s.Protocol != "ttrpc" || !strings.HasPrefix(s.Address, "unix:///") {
			t.Fatalf("%+v", s)
		}
		var theirs bootapi.BootstrapResult
		if b = bytes.TrimSpace(b); b[0] != '{' && b[0] != 'u' {
			if err := proto.Unmarshal(b, &theirs); err == nil && theirs.Address != s.Address {
				t.Errorf("%+v, generated: %v", s, &theirs)
			}
			if again, err := ParseBootstrap(s.Message()); err != nil || !reflect.DeepEqual(again, s) {
				t.Errorf("%+v after a second time: %+v, %v", s, again, err)
			}
		}
	})
}

func FuzzParseStart(f *testing.F) {
	f.Add(marshal(f, theirParams(f)))
	f.Add(Marshal(NewAny(&Options{IoUID: 1 << 31, BinaryName: "crun"})))
	f.Add([]byte("hello"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p BootstrapParams
		var message bool
		var err error
		if n := allocatedBy(func() { p, message, err = ParseStart(b, "c1", "k8s.io") }); n > uint64(64*len(b)+(64<<10)) {
			t.Errorf("%d bytes allocated for %d", n, len(b))
		}
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("kind of %v", err)
			}
			return
		}
		if p.ID != "c1" || p.Namespace != "k8s.io" {
			t.Fatalf("%+v", p)
		}
		if !message {
			return
		}
		var theirs bootapi.BootstrapParams
		if err := proto.Unmarshal(b, &theirs); err != nil {
			t.Fatal(err)
		}
		// What the structs do not hold: unknown fields, presence, and extensions
		// without a value.
		theirs.ProtoReflect().SetUnknown(nil)
		if theirs.GetSocketDir() == "" {
			theirs.SocketDir = nil
		}
		var with []*bootapi.Extension
		for _, e := range theirs.Extensions {
			if e.Value != nil {
				with = append(with, &bootapi.Extension{Value: &anypb.Any{TypeUrl: e.Value.TypeUrl, Value: e.Value.Value}})
			}
		}
		theirs.Extensions = with
		var ours bootapi.BootstrapParams
		if err := proto.Unmarshal(Marshal(&p), &ours); err != nil || !proto.Equal(&ours, &theirs) {
			t.Errorf("%v, %v, generated: %v", &ours, err, &theirs)
		}
	})
}
