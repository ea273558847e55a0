// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func FuzzFormat(f *testing.F) {
	f.Add("lowerdir={{ overlay 0 1 }}:{{mount 1}}")
	f.Add("{{- source 0 -}}{{ target 1 }}}}")
	before := []Placed{{Mount: Mount{Source: "s", Target: "t"}, Point: "/p/0"}, {Point: "/p/1"}}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := fill(text, before)
		if err == nil && strings.Contains(got, "{{") && !strings.Contains(strings.ReplaceAll(text, "}}", ""), "{{") {
			t.Errorf("%q becomes %q", text, got)
		}
		if err == nil && len(got) > len(text)+16*len(text) {
			t.Errorf("%q becomes %d bytes", text, len(got))
		}
	})
}

// TestFormatted: a list of which the last names the others is one mount, and the others are seen nowhere.
func TestFormatted(t *testing.T) {
	d := tmp(t)
	a, b, upper, work, at := mk(t, d+"/a"), mk(t, d+"/b"), mk(t, d+"/upper"), mk(t, d+"/work"), mk(t, d+"/at")
	for _, name := range []string{a + "/one", b + "/two"} {
		if err := os.WriteFile(name, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bind := func(dir string) Mount { return Mount{Type: "bind", Source: dir, Options: []string{"ro"}} }
	list := func(options ...string) []Mount {
		return []Mount{bind(a), bind(b), {Type: "format/overlay", Source: "overlay", Options: append([]string{"upperdir=" + upper, "workdir=" + work}, options...)}}
	}
	before, err := table()
	if err != nil {
		t.Fatal(err)
	}
	mountAll(t, at, list("lowerdir={{ overlay 0 1 }}")...)
	after, err := table()
	if err != nil || len(after) != len(before)+1 {
		t.Errorf("%d mounts are %d: %v", len(before), len(after), err)
	}
	for _, name := range []string{"/one", "/two"} {
		if _, err := os.Stat(at + name); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(at+"/new", nil, 0o644); err != nil {
		t.Error(err)
	}
	if found, err := At(upper); err != nil || len(found) != 1 || found[0] != at {
		t.Errorf("the upper directory is mounted at %v: %v", found, err)
	}
	if err := Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(upper + "/new"); err != nil {
		t.Error(err)
	}
	// With owners mapped.
	err = All(list("lowerdir={{ overlay 0 1 }}", "uidmap=0:100000:65536", "gidmap=0:200000:65536"), at)
	if errdefs.IsNotImplemented(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(at+"/two", &st); err != nil || st.Uid != 100000 || st.Gid != 200000 {
		t.Errorf("%d:%d %v", st.Uid, st.Gid, err)
	}
	if err := Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	// What cannot be leaves nothing.
	for _, m := range [][]Mount{list("lowerdir={{ overlay 0 2 }}"), list("lowerdir={{ mount 0 }"), list("lowerdir=/none")} {
		if err := All(m, at); err == nil {
			t.Errorf("%v is mounted", m)
		}
		is(t, at, false)
	}
}

// TestFormattedMany: the names of as many layers as the kernel stacks fit what mount(2) takes.
func TestFormattedMany(t *testing.T) {
	all := ways
	defer func() { ways = all }()
	ways = nil
	d := tmp(t)
	var list []Mount
	for i := range MaxLayers - 1 {
		list = append(list, Mount{Type: "bind", Source: mk(t, fmt.Sprint(d, "/layer", i)), Options: []string{"ro"}})
	}
	at := mk(t, d+"/"+strings.Repeat("long", 30))
	list = append(list, Mount{Type: "format/overlay", Source: "overlay", Options: []string{"lowerdir={{ overlay 0 498 }}"}})
	mountAll(t, at, list...)
	if err := Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
}

// TestDetached: what is mounted detached is seen by way of the file alone, and ends with it.
func TestDetached(t *testing.T) {
	d := tmp(t)
	dir := mk(t, d+"/dir")
	if err := os.WriteFile(dir+"/f", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	all, err := Detached(Mount{Type: "tmpfs", Source: "tmpfs"}, Mount{Type: "bind", Source: dir, Options: []string{"ro"}})
	if err != nil {
		t.Fatal(err)
	}
	defer all[0].Close()
	f := all[1]
	if data, err := os.ReadFile(procPath(f) + "/f"); err != nil || string(data) != "x" {
		t.Errorf("%q %v", data, err)
	}
	if err := os.WriteFile(procPath(f)+"/g", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("it is writable: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestTree(t *testing.T) {
	d := tmp(t)
	one, two := mk(t, d+"/one"), mk(t, d+"/two")
	mk(t, one+"/below")
	put(t, two+"/f")
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Tree([]Mount{{Type: "bind", Source: one}, {Type: "bind", Source: two, Target: "/below", Options: []string{"ro"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !exists(Directory(f) + "below/f") {
		t.Error("the second is not there")
	}
	put(t, Directory(f)+"g")
	if !exists(one + "/g") {
		t.Error("what is written is not there")
	}
	if err := os.WriteFile(Directory(f)+"below/g", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("it is writable: %v", err)
	}
	if now, err := os.ReadFile("/proc/self/mountinfo"); err != nil || string(now) != string(before) {
		t.Errorf("seen: %s %v", now, err)
	}
	if _, err := Tree([]Mount{{Type: "bind", Source: one}, {Type: "bind", Source: d + "/none", Target: "/below"}}); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}
