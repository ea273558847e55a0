// SPDX-License-Identifier: Apache-2.0

package label_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/label"
)

func TestMask(t *testing.T) {
	old := map[string]string{"a": "1", "b.c/d": "2"}
	for _, c := range []struct {
		given map[string]string
		paths []string
		want  map[string]string
	}{
		{map[string]string{"x": "9"}, nil, map[string]string{"x": "9"}},
		{map[string]string{"x": "9"}, []string{"labels"}, map[string]string{"x": "9"}},
		{nil, nil, map[string]string{}},
		{map[string]string{"x": "9", "b.c/d": "3"}, []string{"labels.b.c/d"}, map[string]string{"a": "1", "b.c/d": "3"}},
		{map[string]string{"a": ""}, []string{"labels.a"}, map[string]string{"b.c/d": "2"}},
		{nil, []string{"labels.a"}, map[string]string{"b.c/d": "2"}},
		{map[string]string{"x": ""}, []string{"labels"}, map[string]string{}},
	} {
		got, err := label.Mask(old, c.given, c.paths...)
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%v by %v: %v %v, want %v", c.given, c.paths, got, err, c.want)
		}
	}
	if len(old) != 2 {
		t.Error("the old labels have changed")
	}
}

func TestWrong(t *testing.T) {
	for _, path := range []string{"size", "label", "labelsx", "digest", ""} {
		if _, err := label.Mask(nil, nil, path); !errdefs.IsInvalidArgument(err) {
			t.Errorf("path %q: %v", path, err)
		}
	}
	for _, wrong := range []map[string]string{{"": "x"}, {"k": strings.Repeat("v", label.Max)}} {
		if err := label.Check(wrong); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
		if _, err := label.Mask(nil, wrong); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	}
	if err := label.Check(map[string]string{"k": strings.Repeat("v", label.Max-1)}); err != nil {
		t.Error(err)
	}
}

func TestSet(t *testing.T) {
	got, err := label.Set(map[string]string{"a": "1", "b": "2"}, map[string]string{"a": "", "c": "3"})
	if err != nil || !maps.Equal(got, map[string]string{"b": "2", "c": "3"}) {
		t.Error(got, err)
	}
	if got, err := label.Set(map[string]string{"a": "1"}, nil); err != nil || len(got) != 1 {
		t.Error(got, err)
	}
}
