// SPDX-License-Identifier: Apache-2.0

package filter_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/filter"
)

var web = filter.Container("web-1", "docker.io/library/nginx:1", "io.containerd.ctr.v1", map[string]string{
	"app": "shop", "tier.name": "front", "with space": "a, b", "nerdctl/name": "web", "empty": "",
})

func TestMatch(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                   true,
		"id":                                 true,
		"id==web-1":                          true,
		"id==web":                            false,
		"id!=web":                            true,
		"id~=^web-\\d$":                      true,
		"id~=eb":                             true,
		"id~=/^web/":                         true,
		"id~=|^web|":                         true,
		`id~="^web"`:                         true,
		`id~=/\\d/`:                          true, // the text of the pattern is \d
		"id~=(":                              false,
		"id.part==web-1":                     true, // as containerd has it
		"image~=nginx,labels.app==shop":      true,
		"image~=nginx, labels.app==shop":     true,
		"image~=nginx,labels.app==other":     false,
		"  id  ==  web-1":                    true,
		"runtime.name==io.containerd.ctr.v1": true,
		"runtime":                            false,
		`"runtime.name"`:                     false,
		"labels.tier.name==front":            true,
		`labels."tier.name"==front`:          true,
		`labels."with space"=="a, b"`:        true,
		`labels."nerdctl/name"==web`:         true,
		"labels.app":                         true,
		"labels.empty":                       true,
		`labels.empty==""`:                   true,
		"labels.none":                        false,
		`labels.none==""`:                    false,
		"labels.none!=x":                     true,
		"labels.none~=^$":                    true,
		"none":                               false,
		"none!=x":                            true,
		`id=="web\x2d\061"`:                  true,
		`id=="\u0077e\U00000062-1"`:          true,
		"id==web-1,id":                       true,
	} {
		f, err := filter.Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := f.Match(web); got != want {
			t.Errorf("%q fits: %v", text, got)
		}
	}
}

func TestAlternatives(t *testing.T) {
	for _, c := range []struct {
		filters []string
		want    bool
	}{
		{nil, true},
		{[]string{"id==a", "id==web-1"}, true},
		{[]string{"id==a", "id==b"}, false},
		{[]string{"id==a", ""}, true},
	} {
		f, err := filter.Parse(c.filters...)
		if err != nil || f.Match(web) != c.want {
			t.Errorf("%q: %v, %v", c.filters, f.Match(web), err)
		}
	}
}

// TestWrong: what is no filter is named, with the place.
func TestWrong(t *testing.T) {
	for text, at := range map[string]int{
		" ":                2,
		",":                1,
		"id,":              4,
		"-":                1,
		"id=web":           3,
		"id===web":         3,
		"id=~web":          3,
		"id==":             5,
		"id==,":            5,
		"id==.5":           5,
		"id==web ":         8,
		"id==a b":          6,
		"id ":              4,
		"id-x":             3,
		"id. ":             5,
		"id==/web/":        5,
		"/id/==web":        1,
		`id=="web`:         5,
		`id=="w` + "\n\"":  5,
		`id=="\d"`:         6,
		`id=="\'"`:         6,
		`id=="\x4"`:        6,
		`id=="\777"`:       6,
		`id=="\U00110000"`: 6,
		`id=="web"x`:       10,
		"id==\xff":         5,
		"id==a\x00":        6,
		"id~=/a/b":         8,
	} {
		_, err := filter.Parse("id", text)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), fmt.Sprintf(": byte %d: ", at)) {
			t.Errorf("%q: %v, want byte %d", text, err, at)
		}
	}
}

func TestCheck(t *testing.T) {
	f, err := filter.Parse("id~=a", "id~=(")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Check(); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if f, _ = filter.Parse("id~=a", "id==("); f.Check() != nil {
		t.Error(f.Check())
	}
}

func TestFields(t *testing.T) {
	target := ocispec.Descriptor{MediaType: "m", Digest: "sha256:00", Annotations: map[string]string{"a.b": "c"}}
	image := filter.Image("redis:7", target, map[string]string{"x": "y"})
	top, bottom := filter.Snapshot("active", "work", "base", nil), filter.Snapshot("committed", "base", "", map[string]string{"x": "y"})
	exit := filter.Event("ns", "/tasks/exit", []byte(`{"container_id":"web","pid":4194304,"io":{"terminal":true},"labels":{"a.b":"c"},"empty":""}`))
	for _, c := range []struct {
		record filter.Fields
		text   string
		want   bool
	}{
		{image, "name==redis:7", true},
		{image, "target.digest==sha256:00,target.mediatype==m", true},
		{image, "target", false},
		{image, "labels.x==y", true},
		{image, "annotations.a.b==c", true},
		{top, "kind==active,name==work,parent==base", true},
		{top, "labels.x", false},
		{bottom, `parent!=""`, false},
		{bottom, "parent", true},
		{bottom, "labels.x", true},
		{exit, "namespace==ns,topic~=|^/tasks/exit|", true},
		{exit, "event.container_id==web,event.pid==4194304,event.io.terminal==true", true},
		{exit, "event.labels.a.b==c", true},
		{exit, "event", false},
		{exit, "event.empty", false},
		{exit, "event.io", false},
		{exit, "event.pid.x", false},
		{filter.Event("", "", []byte("{")), "event.x", false},
	} {
		f, err := filter.Parse(c.text)
		if err != nil || f.Match(c.record) != c.want {
			t.Errorf("%q fits: %v, %v", c.text, f.Match(c.record), err)
		}
	}
}

// FuzzParse: two filters joined by a comma are one that asks for both.
func FuzzParse(f *testing.F) {
	for _, seed := range [][2]string{
		{`labels."containerd.io/gc.root"==x`, "id~=^t1.*$"}, {`parent!=""`, "id"}, {`id~=|a\|b|`, `id=="\u00e4\x80\101"`}, {"id==a ", " id"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		fa, erra := filter.Parse(a)
		fb, errb := filter.Parse(b)
		for _, err := range []error{erra, errb} {
			if err != nil && !errdefs.IsInvalidArgument(err) {
				t.Fatalf("%v is of no kind", err)
			}
		}
		if a == "" || b == "" || erra != nil || errb != nil {
			return
		}
		both, err := filter.Parse(a + "," + b)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := both.Match(web), fa.Match(web) && fb.Match(web); got != want {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}
