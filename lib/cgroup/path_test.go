// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPath(t *testing.T) {
	for spec, want := range map[string]string{
		"/ctrd--default--web":               "/ctrd--default--web",
		"/a/b":                              "/a/b",
		"a/b":                               "/a/b",
		"web":                               "/web",
		"//a//b/":                           "/a/b",
		"/a/./b":                            "/a/b",
		"/a:b:c":                            "/a:b:c",
		"system.slice:ctrd:default--web":    "/system.slice/ctrd-default--web.scope",
		":ctrd:web":                         "/system.slice/ctrd-web.scope",
		"a-b-c.slice:cri-containerd:0123":   "/a.slice/a-b.slice/a-b-c.slice/cri-containerd-0123.scope",
		"-.slice:runc:x":                    "/runc-x.scope",
		"machine.slice::x":                  "/machine.slice/-x.scope",
		"kubepods.slice:x:kubepods-a.slice": "/kubepods.slice/kubepods-a.slice",
		"user-0.slice:p:" + strings.Repeat("x", 240): "/user.slice/user-0.slice/p-" + strings.Repeat("x", 240) + ".scope",
	} {
		got, err := Path(spec)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", spec, got, err, want)
		}
		if UsesSystemd(spec) != (strings.Contains(want, ".s") && spec[0] != '/') {
			t.Errorf("%q: the driver is wrong", spec)
		}
	}
}

var badSpecs = []string{
	"", "/", "//", ".", "..", "/..", "../a", "/a/..", "/a/../b", "a/../../b", "/a\x00b", "/a\nb", "a\x7f",
	":", "::", "a:b", "a:b:c", "a.slice:b", "a.slice:b:c:d", "a.slice:b:", ".slice:b:c", "a--b.slice:c:d", "-a.slice:b:c", "a-.slice:b:c",
	"a/b.slice:c:d", "a.slice:b:../c", "a.slice:b/c:d", "..:..:..", "a.slice:\x00:b", "a.slice:b:c\n",
	strings.Repeat("x", 10_000), strings.Repeat("/x", 10_000), strings.Repeat("x-", 5_000) + "x.slice:a:b", "a.slice:b:" + strings.Repeat("x", 10_000),
	"/" + strings.Repeat("x", 256), strings.Repeat("../", 3_333),
}

func TestPathHostile(t *testing.T) {
	for _, spec := range badSpecs {
		p, err := Path(spec)
		if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%.60q: %q, %v", spec, p, err)
		} else if len(err.Error()) > 400 {
			t.Errorf("%.60q: an error of %d bytes", spec, len(err.Error()))
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, spec := range append(badSpecs, "/a/b", "a-b.slice:c:d", "x.slice:y:z.slice", "-.slice:a:b") {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		p, err := Path(spec)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%q: %v", spec, err)
			}
			return
		}
		if _, err := open(p); errors.Is(err, errdefs.ErrInvalidArgument) || len(p) > maxPath {
			t.Errorf("%q gives %q: %v", spec, p, err)
		}
		for name := range strings.SplitSeq(p[1:], "/") {
			if name == ".." || name == "" || len(name) > maxName {
				t.Errorf("%q gives %q", spec, p)
			}
		}
		if again, err := Path(p); err != nil || again != p {
			t.Errorf("%q gives %q, and that %q, %v", spec, p, again, err)
		}
	})
}

func TestSpec(t *testing.T) {
	for _, c := range []struct {
		d                        Driver
		parent, name, want, path string
	}{
		{Cgroupfs, "", "default--web", "/ctrd--default--web", "/ctrd--default--web"},
		{"", "/a/b/", "default--web", "/a/b/ctrd--default--web", "/a/b/ctrd--default--web"},
		{Cgroupfs, "a.slice", "default--web", "/a.slice/ctrd--default--web", "/a.slice/ctrd--default--web"},
		{Systemd, "", "default--web", "system.slice:ctrd:default--web", "/system.slice/ctrd-default--web.scope"},
		{Systemd, "a-b.slice", "default--web", "a-b.slice:ctrd:default--web", "/a.slice/a-b.slice/ctrd-default--web.scope"},
		{Systemd, "a", "x", "", ""},
		{Systemd, "/a.slice", "x", "", ""},
		{Systemd, "", "x/y", "", ""},
		{Systemd, "", "x:y", "", ""},
		{Systemd, "", strings.Repeat("x", 250), "", ""},
		{Cgroupfs, "../a", "x", "", ""},
		{Cgroupfs, "", strings.Repeat("x", 250), "", ""},
		{"other", "", "x", "", ""},
	} {
		got, err := Spec(c.d, c.parent, "ctrd", c.name)
		if got != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s %q %.20q: %q, %v; want %q", c.d, c.parent, c.name, got, err, c.want)
			continue
		}
		if p, _ := Path(got); p != c.path {
			t.Errorf("%q: %q, want %q", got, p, c.path)
		}
		if p := filepath.Clean(got); c.d == Cgroupfs && err == nil && p != got {
			t.Errorf("%q is not clean", got)
		}
	}
}
