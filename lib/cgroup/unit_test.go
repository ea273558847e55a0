// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestUnitOf(t *testing.T) {
	hybrid := tree{{dir: "/nowhere/systemd", controllers: []string{"name=systemd"}}, {dir: "/nowhere/unified", v2: true}}
	for own, want := range map[string]string{
		"":                               "",
		"0::/\n":                         "",
		"0::/system.slice\n":             "",
		"0::/system.slice/web.service\n": "/system.slice/web.service",
		"4:memory:/\n1:name=systemd:/system.slice/web.service\n0::/\n":       "/system.slice/web.service",
		"4:memory:/a.service\n0::/user.slice/user-0.slice/session-1.scope\n": "/user.slice/user-0.slice/session-1.scope",
		"0::/system.slice/web.service/supervisor\n":                          "/system.slice/web.service",
		"0::/system.slice/web.service/a/b\n":                                 "",
		"0::/user.slice/user@0.service/init.scope\n":                         "/user.slice/user@0.service/init.scope",
		"0::/../web.service\n":                                               "",
		"0::/system.slice/web.service (deleted)\n":                           "",
		"0:web.service\n::\n\n":                                              "",
	} {
		u, ok := hybrid.unitOf(own)
		if ok != (want != "") || u.Path != want || ok && u.Name != filepath.Base(want) || u.Delegated {
			t.Errorf("%q: %+v, %v", own, u, ok)
		}
	}
}

func FuzzMembership(f *testing.F) {
	f.Add("9:name=systemd:/a\n4:cpu,cpuacct:/b\n0::/c\n", "cpu")
	f.Add("0::/c:d\n", "")
	f.Fuzz(func(t *testing.T, own, controller string) {
		if p, ok := membership(own, controller); ok && p[0] != '/' || !ok && p != "" {
			t.Errorf("%q, %v", p, ok)
		}
	})
}

func TestSplit(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		v2 := h.v2("/")
		if v2 == "" {
			return
		}
		path := newGroup(t, h, "web.service")
		u, ok := h.unitOf("0::" + path + "/web.service\n")
		if !ok || u.Delegated {
			t.Fatalf("%+v, %v", u, ok)
		}
		if p, err := u.Split("one"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("a unit that is not delegated was split: %q, %v", p, err)
		}
		dir := filepath.Join(v2, u.Path)
		if err := unix.Setxattr(dir, "trusted.delegate", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		if u, _ = h.unitOf("0::" + path + "/web.service/supervisor\n"); !u.Delegated {
			t.Fatalf("not delegated: %+v", u)
		}
		if p, err := u.Split("one"); err != nil || p != u.Path+"/one" {
			t.Errorf("%q, %v", p, err)
		}
		if p, err := u.Split("../two"); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q, %v", p, err)
		}
	})
}

func TestMoveAll(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		dir := h.v2("/")
		if dir == "" {
			return
		}
		alone := slices.DeleteFunc(slices.Clone(h), func(x hierarchy) bool { return !x.v2 })
		path := newGroup(t, alone)
		pid, _ := start(t, alone, path, "sleep")
		start(t, alone, path, "bomb")
		if err := moveAll(filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
		if got, err := read(filepath.Join(dir, path), "cgroup.procs"); got != "" || err != nil {
			t.Errorf("left: %q, %v", got, err)
		}
		if pids, err := alone.pids(path + "/" + leaf); err != nil || !slices.Contains(pids, pid) {
			t.Errorf("moved: %v, %v", pids, err)
		}
		if err := alone.kill(path, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOwnUnit(t *testing.T) {
	u, err := OwnUnit()
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		t.Fatal(err)
	}
	if err == nil && (!isUnitName(u.Path) || u.Started) {
		t.Errorf("%+v", u)
	}
}
