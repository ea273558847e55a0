// SPDX-License-Identifier: Apache-2.0

package mount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/mount"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func at(t *testing.T, mounts []mount.Mount, target string) {
	t.Helper()
	if err := mount.All(mounts, target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mount.Unmount(target, unix.MNT_DETACH) })
}

// A container may have 128 layers; their absolute names do not fit into the page that mount(2) takes.
func TestManyLayers(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	var lower []string
	for i := range 128 {
		l := mkdir(t, dir, "a-directory-of-usual-length", fmt.Sprintf("%016x", i), "fs")
		if err := os.WriteFile(filepath.Join(l, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		lower = append(lower, l)
	}
	upper, work, target := mkdir(t, dir, "u"), mkdir(t, dir, "w"), mkdir(t, dir, "t")
	at(t, []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"index=off", "workdir=" + work, "upperdir=" + upper, "lowerdir=" + strings.Join(lower, ":")}}}, target)
	entries, err := os.ReadDir(target)
	if err != nil || len(entries) != 128 {
		t.Errorf("%d entries, %v; want 128", len(entries), err)
	}
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(upper, "new")); err != nil {
		t.Error(err)
	}
}

func TestReadOnlyBind(t *testing.T) {
	needRoot(t)
	src, target := t.TempDir(), t.TempDir()
	at(t, []mount.Mount{{Type: "bind", Source: src, Options: []string{"ro", "rbind", "nosuid"}}}, target)
	if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o644); err == nil {
		t.Error("a read-only bind mount was written to")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil || st.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags %x, %v: want nosuid", st.Flags, err)
	}
	if ok, err := mount.Mounted(target); err != nil || !ok {
		t.Errorf("Mounted: %v, %v", ok, err)
	}
	if p, err := mount.Parent(target); err != nil || p != target {
		t.Errorf("Parent: %q, %v", p, err)
	}
}

func TestFailureUndoesWhatWasMounted(t *testing.T) {
	needRoot(t)
	target := t.TempDir()
	mkdir(t, target, "sub")
	err := mount.All([]mount.Mount{
		{Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k"}},
		{Type: "bind", Source: "/does/not/exist", Options: []string{"rbind"}},
	}, target)
	if err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("error %v does not name the source", err)
	}
	if ok, _ := mount.Mounted(target); ok {
		mount.Unmount(target, unix.MNT_DETACH)
		t.Error("the first mount is still there")
	}
}

// A link in the rootfs leads nowhere outside.
func TestTargetStaysInside(t *testing.T) {
	needRoot(t)
	outside, target := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(target, "link")); err != nil {
		t.Fatal(err)
	}
	mount.All([]mount.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "link"}}, target)
	if ok, _ := mount.Mounted(outside); ok {
		mount.Unmount(outside, unix.MNT_DETACH)
		t.Error("mounted outside of the target")
	}
}

func TestUnmountOfNothing(t *testing.T) {
	needRoot(t)
	for _, path := range []string{t.TempDir(), "/does/not/exist"} {
		if err := mount.Unmount(path, 0); err != nil {
			t.Errorf("unmount of %s: %v", path, err)
		}
	}
}
