// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func ownerOf(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Gid
}

func TestOverlayMapped(t *testing.T) {
	d := tmp(t)
	a, b, upper, work, to := mk(t, d+"/l/a:1/fs"), mk(t, d+"/l/b,2/fs"), mk(t, d+"/u/fs"), mk(t, d+"/u/work"), mk(t, d+"/to")
	put(t, a+"/a")
	put(t, b+"/dir/b")
	if err := os.Chown(b+"/dir/b", 7, 8); err != nil {
		t.Fatal(err)
	}
	mountAll(t, to, Mount{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + Escape(a) + ":" + Escape(b), "upperdir=" + Escape(upper), "workdir=" + Escape(work), "uidmap=0:100000:65536", "gidmap=0:200000:5,5:300000:100",
	}})
	if uid, gid := ownerOf(t, to+"/a"); uid != 100000 || gid != 200000 {
		t.Errorf("a: %d:%d", uid, gid)
	}
	if uid, gid := ownerOf(t, to+"/dir/b"); uid != 100007 || gid != 300003 {
		t.Errorf("b: %d:%d", uid, gid)
	}
	// What is copied up is the mapped owner's, and below nothing has changed.
	if err := os.WriteFile(to+"/dir/b", []byte("more"), 0); err != nil {
		t.Fatal(err)
	}
	if uid, gid := ownerOf(t, upper+"/dir/b"); uid != 100007 || gid != 300003 {
		t.Errorf("upper: %d:%d", uid, gid)
	}
	if uid, gid := ownerOf(t, b+"/dir/b"); uid != 7 || gid != 8 {
		t.Errorf("lower: %d:%d", uid, gid)
	}
	if mounts := strings.Count(string(must(os.ReadFile("/proc/self/mountinfo"))), " "+to+" "); mounts != 1 {
		t.Errorf("%d mounts are there", mounts)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestMappedManyLayers: one clone is enough for layers whose names fill more than a page.
func TestMappedManyLayers(t *testing.T) {
	d := tmp(t)
	var lower []string
	for i := range 120 {
		dir := mk(t, filepath.Join(d, "layers", strings.Repeat("n", 20)+string(rune('a'+i%26))+string(rune('a'+i/26)), "fs"))
		put(t, filepath.Join(dir, "f"+string(rune('a'+i%26))+string(rune('a'+i/26))))
		lower = append(lower, Escape(dir))
	}
	to := mk(t, d+"/to")
	mountAll(t, to, Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(lower, ":"), "uidmap=0:1000:10", "gidmap=0:1000:10"}})
	entries, err := os.ReadDir(to)
	if err != nil || len(entries) != 120 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	if uid, _ := ownerOf(t, filepath.Join(to, entries[0].Name())); uid != 1000 {
		t.Errorf("uid %d", uid)
	}
}

func TestMappedFails(t *testing.T) {
	d := tmp(t)
	a, b, to := mk(t, d+"/a"), mk(t, d+"/b"), mk(t, d+"/to")
	for _, options := range [][]string{
		{"lowerdir=" + a + ":" + b, "uidmap=0:1"},
		{"lowerdir=" + a + ":" + d + "/none", "uidmap=0:1000:1", "gidmap=0:1000:1"},
		{"lowerdir=a:b", "uidmap=0:1000:1", "gidmap=0:1000:1"},
		{"upperdir=" + a, "uidmap=0:1000:1", "gidmap=0:1000:1"},
	} {
		if err := All([]Mount{{Type: "overlay", Source: "overlay", Options: options}}, to); err == nil {
			t.Errorf("%q: mounted", options)
		}
	}
	err := All([]Mount{{Type: "bind", Source: a, Options: []string{"rbind", "uidmap=0:1000:1"}}}, to)
	if !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Error(err)
	}
}

func FuzzIDMaps(f *testing.F) {
	for _, s := range []string{"0:100000:65536", "0:1:1,1:5:7", "::", "0:0:0", "a:b:c", ",", "0:4294967295:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseIDMaps(text)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if slices.ContainsFunc(list, func(m syscall.SysProcIDMap) bool { return m.Size <= 0 || m.HostID < 0 || m.ContainerID < 0 }) || len(list) == 0 {
			t.Errorf("%q: %v", text, list)
		}
	})
}
