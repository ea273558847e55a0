// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// vendors makes two directories of specs: the second has another description of one of the devices.
func vendors(t *testing.T) (dirs []string) {
	t.Helper()
	for _, files := range []map[string]string{
		{"a.yaml": "cdiVersion: 0.6.0\nkind: vendor.com/class\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n- name: one\n  containerEdits:\n    env: [DEVICE=first]\n- name: two\n  containerEdits:\n    env: [TWO=2]\n    mounts:\n    - {hostPath: /lib, containerPath: /vendor, options: [ro, rbind]}\n"},
		{"b.json": `{"cdiVersion": "0.6.0", "kind": "vendor.com/class", "devices": [{"name": "one", "containerEdits": {"deviceNodes": [{"path": "/dev/vendor", "hostPath": "/dev/null"}], "env": ["DEVICE=second"]}}]}`,
			"c.json": "{ no spec"},
	} {
		dir := t.TempDir()
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

func TestInject(t *testing.T) {
	dirs := vendors(t)
	s := &specs.Spec{Process: &specs.Process{}}
	if err := Inject(s, dirs, []string{"vendor.com/class=one", "vendor.com/class=two", "vendor.com/class=one"}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"DEVICE=second", "ALL=1", "TWO=2"}; !slices.Equal(s.Process.Env, want) {
		t.Errorf("%q, want %q", s.Process.Env, want)
	}
	if d := s.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/vendor" || d[0].Major != 1 || d[0].Minor != 3 {
		t.Errorf("devices: %v", d)
	}
	if r := s.Linux.Resources.Devices; len(r) != 1 || !r[0].Allow || *r[0].Minor != 3 {
		t.Errorf("rules: %v", r)
	}
	if len(s.Mounts) != 1 || s.Mounts[0].Destination != "/vendor" {
		t.Errorf("mounts: %v", s.Mounts)
	}
}

// A device that there is not leaves the spec as it was, and the error says where was looked and which files are broken.
func TestInjectUnknown(t *testing.T) {
	dirs := vendors(t)
	s := &specs.Spec{Process: &specs.Process{}}
	err := Inject(s, dirs, []string{"vendor.com/class=one", "vendor.com/class=three"})
	if !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	for _, part := range []string{"vendor.com/class=three", dirs[0], dirs[1], "c.json"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %q in it", err, part)
		}
	}
	if len(s.Process.Env) > 0 || s.Linux != nil {
		t.Errorf("the spec has changed: %v", s)
	}
	if err := Inject(s, dirs, []string{"/dev/null"}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if err := Inject(s, []string{filepath.Join(dirs[0], "none")}, nil); err != nil {
		t.Error(err)
	}
}

func TestAnnotated(t *testing.T) {
	names, err := Annotated(map[string]string{"cdi.k8s.io/b": "v.com/c=2", "cdi.k8s.io/a": "v.com/c=0,v.com/c=1", "other": "x"})
	if want := []string{"v.com/c=0", "v.com/c=1", "v.com/c=2"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%q, %v", names, err)
	}
	if _, err := Annotated(map[string]string{"cdi.k8s.io/a": "v.com/c=0,"}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "cdi.k8s.io/a") {
		t.Error(err)
	}
}
