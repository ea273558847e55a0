// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"testing"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/taskapi"
)

func TestReadOptions(t *testing.T) {
	var r ask.Request
	// no_pivot_root, an unknown string field 6, no_new_keyring.
	value := []byte{0x08, 1, 0x32, 2, 'a', 'b', 0x10, 1}
	if err := readOptions(&taskapi.Any{TypeURL: optionsURL, Value: value}, &r); err != nil || !r.NoPivotRoot || !r.NoNewKeyring {
		t.Errorf("%+v %v", r, err)
	}
	r = ask.Request{}
	for _, a := range []*taskapi.Any{nil, {}, {TypeURL: "other", Value: value}} {
		if err := readOptions(a, &r); err != nil || r != (ask.Request{}) {
			t.Errorf("%+v: %+v %v", a, r, err)
		}
	}
	if err := readOptions(&taskapi.Any{TypeURL: optionsURL, Value: value[:5]}, &r); !errdefs.IsInvalidArgument(err) {
		t.Errorf("cut off: %v", err)
	}
}

func FuzzReadOptions(f *testing.F) {
	f.Add([]byte{0x08, 1, 0x32, 2, 'a', 'b', 0x10, 1})
	f.Fuzz(func(t *testing.T, value []byte) {
		var r ask.Request
		if err := readOptions(&taskapi.Any{TypeURL: optionsURL, Value: value}, &r); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	})
}
