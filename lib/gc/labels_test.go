// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseLabels(t *testing.T) {
	content, image, layer := node{Type: "content", ID: "v"}, node{Type: "images", ID: "v"}, node{Type: "snapshots/overlayfs", ID: "v"}
	for key, want := range map[string]references{
		"gc.root":                       {root: true},
		"gc.root.x":                     {root: true},
		"gc.ref.content":                {refs: []node{content}},
		"gc.ref.content.m.0":            {refs: []node{content}},
		"gc.ref.content/x":              {refs: []node{content}},
		"gc.ref.contents":               {},
		"gc.ref.image":                  {refs: []node{image}},
		"gc.ref.image/x":                {refs: []node{image}},
		"gc.ref.images":                 {},
		"gc.ref.container":              {},
		"gc.ref.snapshot.overlayfs":     {refs: []node{layer}},
		"gc.ref.snapshot.overlayfs/x/y": {refs: []node{layer}},
		"gc.ref.snapshot":               {},
		"gc.bref.content":               {back: []node{content}},
		"gc.bref.content.x":             {back: []node{content}},
		"gc.bref.image":                 {back: []node{image}},
		"gc.bref.container/x":           {back: []node{{Type: "containers", ID: "v"}}},
		"gc.bref.snapshot.overlayfs/x":  {back: []node{layer}},
		"gc.bref.nothing":               {},
		"gc.cond.snapshot.overlayfs":    {},
		"gc.flat":                       {},
		"distribution.source.docker.io": {},
		"gc.expire":                     {},
		"gc.cond.value-usedat":          {},
		"snapshot/gc.ref.content":       {},
	} {
		if got := parseLabels(map[string]string{"containerd.io/" + key: "v"}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", key, got, want)
		}
	}
}

func TestConditions(t *testing.T) {
	layer := node{Type: "snapshots/overlayfs", ID: "key|x"}
	less, more := condition{layer, true, time.Hour}, condition{layer, false, time.Minute}
	for value, want := range map[string][]condition{
		"usedat<1h|key|x":           {less},
		"usedat>1m|key|x":           {more},
		"usedat<1h,usedat>1m|key|x": {less, more},
		"other<1h,usedat>1m|key|x":  {more},
		"usedat<=1h|key|x":          nil,
		"usedat=1h|key|x":           nil,
		"usedat<soon|key|x":         nil,
		"usedat<1h":                 nil,
		"usedat|key|x":              nil,
		"|key|x":                    nil,
	} {
		for _, key := range []string{".overlayfs", ".overlayfs/name", "/overlayfs"} {
			if got := conditions(key, value); !reflect.DeepEqual(got, want) {
				t.Errorf("%s %s: %+v, want %+v", key, value, got, want)
			}
		}
	}
	now := time.Now()
	if !less.holds(now, now.Add(-time.Minute)) || less.holds(now, now.Add(-2*time.Hour)) || more.holds(now, now) || !more.holds(now, now.Add(-time.Hour)) {
		t.Error("the conditions are not what they say")
	}
}

func FuzzParseLabels(f *testing.F) {
	for _, seed := range [][2]string{
		{"containerd.io/gc.ref.content.m.0", "sha256:x"}, {"containerd.io/gc.bref.snapshot.overlayfs/x", "key"},
		{"containerd.io/gc.cond.snapshot.overlayfs/x", "usedat<24h,usedat>1h|key"}, {"containerd.io/gc.cond.value-usedat", "2026-01-02T03:04:05Z"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		r := parseLabels(map[string]string{key: value})
		said := len(r.refs) + len(r.back) + len(r.conds) + len(r.usedAt)
		if !strings.HasPrefix(key, "containerd.io/gc.") && (r.root || said > 0) {
			t.Fatalf("%q says %+v", key, r)
		}
		for _, n := range append(r.refs, r.back...) {
			if n.ID != value || n.Type == "" {
				t.Fatalf("%q refers to %+v, its value is %q", key, n, value)
			}
		}
		for _, c := range r.conds {
			if !strings.HasSuffix(value, "|"+c.snapshot.ID) {
				t.Fatalf("the condition %q is about %q", value, c.snapshot.ID)
			}
		}
		// A name of its own behind a reference changes nothing.
		if len(r.refs) == 1 {
			if again := parseLabels(map[string]string{key + "/x": value}); !reflect.DeepEqual(again, r) {
				t.Fatalf("%q: %+v, with a name behind it %+v", key, r, again)
			}
		}
	})
}
