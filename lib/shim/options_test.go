// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/taskapi"
)

// someOptions: no_pivot_root, no_new_keyring, io_uid 300, an unknown string field 15, root "/r".
var someOptions = []byte{0x08, 1, 0x10, 1, 0x20, 0xac, 2, 0x7a, 2, 'a', 'b', 0x3a, 2, '/', 'r'}

func TestReadOptions(t *testing.T) {
	want := taskapi.Options{NoPivotRoot: true, NoNewKeyring: true, IoUID: 300, Root: "/r"}
	if o, err := readOptions(&taskapi.Any{TypeURL: taskapi.RuncOptionsURL, Value: someOptions}); err != nil || o != want {
		t.Errorf("%+v %v", o, err)
	}
	for _, a := range []*taskapi.Any{nil, {}, {TypeURL: "other", Value: someOptions}} {
		if o, err := readOptions(a); err != nil || o != (taskapi.Options{}) {
			t.Errorf("%+v: %+v %v", a, o, err)
		}
	}
	if _, err := readOptions(&taskapi.Any{TypeURL: taskapi.RuncOptionsURL, Value: someOptions[:6]}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("cut off: %v", err)
	}
}

func FuzzReadOptions(f *testing.F) {
	f.Add(someOptions)
	f.Fuzz(func(t *testing.T, value []byte) {
		if _, err := readOptions(&taskapi.Any{TypeURL: taskapi.RuncOptionsURL, Value: value}); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	})
}

func TestArguments(t *testing.T) {
	got := arguments("logger=&uri=log%3A%2F%2F%2Fx%3Fmax-size%3D1&flag")
	want := []string{"logger", "", "uri", "log:///x?max-size=1", "flag", ""}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%q", got)
		}
	}
	if got := arguments(""); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func FuzzParseOutput(f *testing.F) {
	for _, s := range []string{"", "/fifo", "fifo:///x", "file:///a%20b", "binary:///x?a=b&c=", "log:///x?max-size=1", "x://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		o := parseOutput(uri)
		if (o.scheme == "" && o.path == "" && o.query == "") != (uri == "") && !strings.HasPrefix(uri, "://") {
			t.Errorf("%q: %+v", uri, o)
		}
		if args := arguments(o.query); len(args)%2 != 0 {
			t.Errorf("%q", args)
		}
	})
}
