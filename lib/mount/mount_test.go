// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// tmp gives a directory without mounts that propagate, and unmounts at the end what a test left.
func tmp(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	d := t.TempDir()
	t.Cleanup(func() {
		info, _ := os.ReadFile("/proc/self/mountinfo")
		lines := strings.Split(string(info), "\n")
		slices.Reverse(lines)
		for _, l := range lines {
			if f := strings.Fields(l); len(f) > 5 && strings.HasPrefix(unoctal(f[4]), d) {
				t.Errorf("left mounted: %s", unoctal(f[4]))
				unix.Unmount(unoctal(f[4]), unix.MNT_DETACH)
			}
		}
	})
	return d
}

func mk(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func put(t *testing.T, path string) {
	t.Helper()
	mk(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mountAll(t *testing.T, target string, m ...Mount) {
	t.Helper()
	if err := All(m, target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func is(t *testing.T, path string, want bool) {
	t.Helper()
	if got, err := Mounted(path); err != nil || got != want {
		t.Errorf("Mounted(%s) = %v, %v", path, got, err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestBind(t *testing.T) {
	d := tmp(t)
	src, rw, ro := mk(t, d+"/src"), mk(t, d+"/rw"), mk(t, d+"/ro")
	sub := mk(t, src+"/sub")
	mountAll(t, sub, Mount{Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k", "nosuid", "mode=700"}})
	put(t, sub+"/f")
	mountAll(t, rw, Mount{Type: "bind", Source: src, Options: []string{"rw", "rbind", "rprivate"}})
	put(t, rw+"/new")
	if !exists(src+"/new") || !exists(rw+"/sub/f") {
		t.Error("rbind does not show the source")
	}
	mountAll(t, ro, Mount{Type: "bind", Source: src, Options: []string{"ro", "bind", "nodev"}})
	if err := os.WriteFile(ro+"/no", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only bind: %v", err)
	}
	if exists(ro + "/sub/f") {
		t.Error("bind is recursive")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(ro, &st); err != nil || st.Flags&unix.ST_NODEV == 0 {
		t.Errorf("nodev not set: %v", err)
	}
	is(t, rw, true)
	is(t, src, false)
	is(t, d+"/none", false)
	is(t, rw+"/new", false)
	os.Symlink(sub, d+"/link")
	for path, want := range map[string]string{d + "/link": sub, rw + "/new": rw, sub: sub, sub + "/f": sub, rw + "/sub/f": rw + "/sub"} {
		if got, err := Parent(path); err != nil || got != want {
			t.Errorf("Parent(%s) = %s, %v", path, got, err)
		}
	}
}

func TestRecursiveReadOnly(t *testing.T) {
	d := tmp(t)
	src, to := mk(t, d+"/src"), mk(t, d+"/to")
	mountAll(t, mk(t, src+"/sub"), Mount{Type: "tmpfs", Source: "tmpfs"})
	err := All([]Mount{{Type: "bind", Source: src, Options: []string{"rbind", "rro"}}}, to)
	if errdefs.IsNotImplemented(err) {
		is(t, to, false)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer Unmount(to, unix.MNT_DETACH)
	if err := os.WriteFile(to+"/sub/no", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write below a recursively read-only bind: %v", err)
	}
}

func TestBindFile(t *testing.T) {
	d := tmp(t)
	put(t, d+"/src")
	put(t, d+"/to")
	os.WriteFile(d+"/src", []byte("source"), 0o644)
	mountAll(t, d+"/to", Mount{Type: "bind", Source: d + "/src", Options: []string{"bind", "ro"}})
	if b, _ := os.ReadFile(d + "/to"); string(b) != "source" {
		t.Errorf("%q", b)
	}
	is(t, d+"/to", true)
}

func TestTarget(t *testing.T) {
	d := tmp(t)
	real, outside := mk(t, d+"/real"), mk(t, d+"/outside")
	os.Symlink(outside, d+"/link")
	m := Mount{Type: "tmpfs", Source: "tmpfs"}
	if err := All([]Mount{m}, d+"/link"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a link as target: %v", err)
	}
	if err := All([]Mount{m}, d+"/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no target: %v", err)
	}
	mk(t, real+"/sub")
	os.Symlink("../outside", real+"/out")
	for _, below := range []string{"out", "../outside", "/none"} {
		m.Target = below
		if err := All([]Mount{m}, real); err == nil {
			t.Errorf("mounted at %s", below)
		}
	}
	is(t, outside, false)
	m.Target = "/sub"
	if err := All([]Mount{m}, real); err != nil {
		t.Fatal(err)
	}
	is(t, real+"/sub", true)
	if err := Unmount(real+"/sub", 0); err != nil {
		t.Error(err)
	}
}

func TestFailureUndoes(t *testing.T) {
	d := tmp(t)
	to := mk(t, d+"/to")
	err := All([]Mount{{Type: "tmpfs", Source: "tmpfs"}, {Type: "bind", Source: d + "/none", Options: []string{"bind"}}}, to)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), d+"/none") {
		t.Errorf("%v", err)
	}
	is(t, to, false)
	if err := All([]Mount{{Type: "ext4", Source: "/x", Options: []string{"loop=/dev/loop0"}}}, to); !errdefs.IsNotImplemented(err) {
		t.Errorf("loop: %v", err)
	}
}

func TestUnmount(t *testing.T) {
	d := tmp(t)
	to := mk(t, d+"/to")
	m := Mount{Type: "tmpfs", Source: "tmpfs"}
	if err := All([]Mount{m, m, m}, to); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(to + "/open")
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmount(to, 0); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a busy mount: %v", err)
	}
	is(t, to, true)
	f.Close()
	for range 2 {
		if err := Unmount(to, 0); err != nil {
			t.Errorf("%v", err)
		}
	}
	is(t, to, false)
	for _, none := range []string{d + "/none", d + "/none/none"} {
		if err := Unmount(none, 0); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func TestPropagation(t *testing.T) {
	d := tmp(t)
	a, b := mk(t, d+"/a"), mk(t, d+"/b")
	mountAll(t, a, Mount{Type: "tmpfs", Source: "tmpfs", Options: []string{"shared"}})
	mk(t, a+"/sub")
	mountAll(t, b, Mount{Type: "bind", Source: a, Options: []string{"rbind", "rslave"}})
	tmpfs := Mount{Type: "tmpfs", Source: "tmpfs"}
	mountAll(t, a+"/sub", tmpfs)
	is(t, b+"/sub", true)
	if err := Unmount(a+"/sub", 0); err != nil {
		t.Fatal(err)
	}
	is(t, b+"/sub", false)
	if err := unix.Mount("", a, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	mountAll(t, a+"/sub", tmpfs)
	is(t, b+"/sub", false)
}

func TestOverlayShort(t *testing.T) {
	d := tmp(t)
	a, b, to := mk(t, d+"/a:1"), mk(t, d+"/b,2"), mk(t, d+"/to")
	put(t, a+"/a")
	put(t, b+"/b")
	mountAll(t, to, Mount{Type: "overlay", Source: "overlay", Options: []string{"ro", "lowerdir=" + Escape(a) + ":" + Escape(b)}})
	if !exists(to+"/a") || !exists(to+"/b") {
		t.Error("layers are missing")
	}
	if err := os.WriteFile(to+"/no", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("%v", err)
	}
}

func TestPrivateNamespace(t *testing.T) {
	d := tmp(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestInside$", "-test.v")
	cmd.Env = append(os.Environ(), "MOUNT_TEST_DIR="+d)
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	is(t, d+"/to", false)
	if exists(d + "/to/f") {
		t.Error("the mount was seen outside")
	}
}

func TestInside(t *testing.T) {
	d := os.Getenv("MOUNT_TEST_DIR")
	if d == "" {
		t.Skip("run by TestPrivateNamespace")
	}
	// As a host run by systemd has it: everything shared, so the mount point must be made private.
	mountpoint, err := Parent(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", mountpoint, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := All([]Mount{{Type: "tmpfs", Source: "tmpfs"}}, mk(t, d+"/to")); err != nil {
		t.Fatal(err)
	}
	put(t, d+"/to/f")
	is(t, d+"/to", true)
}

func TestParse(t *testing.T) {
	p, err := parse([]string{"ro", "nosuid", "rw", "noexec", "size=5%", "rbind", "slave", "", "rshared", "context=x"})
	if err != nil {
		t.Fatal(err)
	}
	if p.flags != unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_BIND|unix.MS_REC || p.propagation != unix.MS_SHARED|unix.MS_REC || strings.Join(p.data, ",") != "size=5%,context=x" {
		t.Errorf("%+v", p)
	}
}

func TestAt(t *testing.T) {
	for _, special := range []string{"plain", "with:colon,comma\\and space"} {
		d := tmp(t)
		dir := mk(t, d+"/"+special)
		up, work, lower := mk(t, dir+"/up"), mk(t, dir+"/work"), mk(t, dir+"/lower")
		none, err := At(up)
		if err != nil || len(none) != 0 {
			t.Errorf("%v, %v", none, err)
		}
		a, b := mk(t, d+"/a a"), mk(t, d+"/b")
		mountAll(t, a, Mount{Type: "overlay", Source: "overlay", Options: []string{"workdir=" + Escape(work), "upperdir=" + Escape(up), "lowerdir=" + Escape(lower)}})
		mountAll(t, b, Mount{Type: "bind", Source: up, Options: []string{"bind"}})
		if at, err := At(up); err != nil || !slices.Equal(at, []string{a, b}) {
			t.Errorf("%q, %v", at, err)
		}
		if at, err := At(lower); err != nil || len(at) != 0 {
			t.Errorf("%q, %v", at, err)
		}
		if at, err := At(d + "/none"); err != nil || len(at) != 0 {
			t.Errorf("%q, %v", at, err)
		}
	}
}

func TestTable(t *testing.T) {
	for in, want := range map[string]entry{
		`36 35 98:0 /a\040b /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`: {
			id: "36", device: "98:0", root: "/a b", point: "/mnt 2", fstype: "ext3", source: "/dev/root", options: []string{"rw", "errors=continue"},
		},
		`40 35 0:41 / /o rw - overlay  ro,lowerdir=/x\134:y:/z`: {
			id: "40", device: "0:41", root: "/", point: "/o", fstype: "overlay", options: []string{"ro", `lowerdir=/x\:y:/z`},
		},
	} {
		if got := parseTable("junk\n" + in + "\n1 2 3 - x\n"); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%s: %+v", in, got)
		}
	}
}

func TestFrom(t *testing.T) {
	d := tmp(t)
	tree, at := mk(t, d+"/tree"), mk(t, d+"/at")
	one, two, other := mk(t, tree+"/one"), mk(t, tree+"/two"), mk(t, d+"/other")
	from := func(what string, want bool) {
		t.Helper()
		if got, err := From(at, tree); err != nil || got != want {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	from("nothing mounted", false)
	for _, m := range []struct {
		what string
		Mount
		want bool
	}{
		{"a bind mount", Mount{Type: "bind", Source: one, Options: []string{"rbind"}}, true},
		{"a tmpfs above it", Mount{Type: "tmpfs", Source: "x"}, false},
		{"an overlay above that", Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + one + ":" + two}}, true},
		{"another's directory", Mount{Type: "bind", Source: other, Options: []string{"rbind"}}, false},
	} {
		mountAll(t, at, m.Mount)
		from(m.what, m.want)
	}
	for n := 4; n > 0; n-- {
		if more, err := UnmountTop(at, 0); !more || err != nil {
			t.Errorf("%d mounts: %v, %v", n, more, err)
		}
	}
	if more, err := UnmountTop(at, 0); more || err != nil {
		t.Errorf("no mount: %v, %v", more, err)
	}
}

func FuzzTable(f *testing.F) {
	f.Add(`36 35 98:0 /a\040b /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`)
	f.Add("40 35 0:41 / /o rw - overlay overlay ro,lowerdir=/x\\134:y:/z,upperdir=/u\n")
	f.Fuzz(func(t *testing.T, in string) {
		all := parseTable(in)
		if lines := strings.Count(in, "\n") + 1; len(all) > lines {
			t.Errorf("%d mounts in %d lines", len(all), lines)
		}
		for _, e := range all {
			if strings.Contains(e.id+e.device+e.fstype, " ") || len(e.options) == 0 {
				t.Errorf("%q gives %+v", in, e)
			}
		}
	})
}
