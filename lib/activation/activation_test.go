// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

var ctx = context.Background()

// open makes a state directory. Whatever a test leaves mounted there is unmounted at its end.
func open(t *testing.T) *state.Dir {
	t.Helper()
	dir := t.TempDir()
	d, err := state.Open(state.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "run"), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for id := range Dirs(d) {
			Drop(d, id)
		}
		d.EmptyTrash()
	})
	return d
}

func get(t *testing.T, d *state.Dir, name string) (a Activation, err error) {
	t.Helper()
	err = d.View(ctx, func(tx *state.Tx) error {
		a, err = Get(tx, "ns", name)
		return err
	})
	return a, err
}

func dirs(d *state.Dir) (all []string) {
	for id := range Dirs(d) {
		all = append(all, id)
	}
	return all
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		types     string
		temporary bool
		first     int
	}{
		{"bind", false, -1},
		{"bind overlay", false, -1},
		{"unknown/overlay", false, -1},
		{"bind format/overlay", false, 1},
		{"bind xfs format/mkdir/overlay", false, 2},
		{"mkdir/overlay", false, 0},
		{"loop", false, 1},
		{"mkfs/loop format/ext4 format/mkdir/overlay", false, 2},
		{"loop bind", false, 1},
		{"bind overlay", true, 2},
		{"bind format/overlay", true, 2},
	} {
		var r Request
		for _, kind := range strings.Fields(c.types) {
			r.Mounts = append(r.Mounts, mount.Mount{Type: kind})
		}
		r.Temporary = c.temporary
		if p := makePlan(r); p.first != c.first {
			t.Errorf("%s: %d are made, want %d", c.types, p.first, c.first)
		}
	}
}

func TestActivate(t *testing.T) {
	d := open(t)
	source := t.TempDir()
	r := Request{Name: "a/b", Labels: map[string]string{"k": "v"}, Mounts: []mount.Mount{
		{Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}},
		{Type: "bind", Source: source, Options: []string{"ro", "rbind"}},
		{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
			"X-containerd.mkdir.path={{ mount 0 }}/upper:0751", "X-containerd.mkdir.path={{ mount 0 }}/work:0700:7:8",
			"lowerdir={{ overlay 1 0 }}", "upperdir={{ mount 0 }}/upper", "workdir={{ mount 0 }}/work",
		}},
	}}
	a, err := Activate(ctx, d, "ns", r)
	if err != nil {
		t.Fatal(err)
	}
	zero, one := a.Active[0].Point, a.Active[1].Point
	want := []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + one + ":" + zero, "upperdir=" + zero + "/upper", "workdir=" + zero + "/work"}}}
	if !reflect.DeepEqual(a.System, want) {
		t.Errorf("left to the caller: %+v, want %+v", a.System, want)
	}
	if st, err := os.Stat(zero + "/upper"); err != nil || st.Mode().Perm() != 0o751 {
		t.Errorf("%v: %v", err, st)
	}
	for _, p := range []string{zero, one} {
		if mounted, err := mount.Mounted(p); !mounted || err != nil {
			t.Errorf("%s is not mounted: %v", p, err)
		}
	}
	if got, err := get(t, d, "a/b"); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%v: the record is %+v, want %+v", err, got, a)
	}
	if Live(d, a.ID) {
		t.Error("its lock is held")
	}
	if _, err := Activate(ctx, d, "ns", r); !errdefs.IsAlreadyExists(err) || len(dirs(d)) != 1 {
		t.Errorf("again: %v, %v", err, dirs(d))
	}
	// Who uses a mount keeps it, and is in nobody's way.
	f, err := os.Open(zero + "/upper")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Deactivate(ctx, d, "ns", "a/b"); err != nil {
		t.Error(err)
	}
	if mounted, _ := mount.Mounted(zero); mounted || len(dirs(d)) != 0 {
		t.Errorf("%s is still mounted, or there: %v", zero, dirs(d))
	}
	if _, err := get(t, d, "a/b"); !errdefs.IsNotFound(err) {
		t.Errorf("the record: %v", err)
	}
	if err := Deactivate(ctx, d, "ns", "a/b"); !errdefs.IsNotFound(err) {
		t.Errorf("again: %v", err)
	}
}

func TestTemporary(t *testing.T) {
	d := open(t)
	a, err := Activate(ctx, d, "ns", Request{Name: "t", Temporary: true, Mounts: []mount.Mount{{Type: "tmpfs", Source: "tmpfs"}}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []mount.Mount{{Type: "bind", Source: a.Active[0].Point, Options: []string{"rbind"}}}; !reflect.DeepEqual(a.System, want) {
		t.Errorf("%+v", a.System)
	}
}

// TestRefused: what cannot be done leaves neither record nor mount.
func TestRefused(t *testing.T) {
	d := open(t)
	tmpfs := mount.Mount{Type: "tmpfs", Source: "tmpfs"}
	last := func(kind string, options ...string) []mount.Mount {
		return []mount.Mount{tmpfs, {Type: kind, Source: "x", Options: options}}
	}
	for name, c := range map[string]struct {
		r  Request
		is func(error) bool
	}{
		"no name":      {Request{Mounts: last("loop")}, errdefs.IsInvalidArgument},
		"no mounts":    {Request{Name: "n"}, errdefs.IsInvalidArgument},
		"zero byte":    {Request{Name: "n", Mounts: last("format/overlay", "a\x00b")}, errdefs.IsInvalidArgument},
		"nothing":      {Request{Name: "n", Mounts: last("overlay")}, errdefs.IsNotImplemented},
		"no lease":     {Request{Name: "n", Lease: "none", Mounts: last("format/overlay")}, errdefs.IsNotFound},
		"index":        {Request{Name: "n", Mounts: last("format/overlay", "lowerdir={{ mount 1 }}")}, errdefs.IsInvalidArgument},
		"template":     {Request{Name: "n", Mounts: last("format/overlay", "lowerdir={{ range 9999999999 }}")}, errdefs.IsInvalidArgument},
		"open":         {Request{Name: "n", Mounts: last("format/overlay", "lowerdir={{ mount 0")}, errdefs.IsInvalidArgument},
		"outside":      {Request{Name: "n", Mounts: last("mkdir/overlay", "X-containerd.mkdir.path=/tmp/ctrd-none")}, errdefs.IsNotImplemented},
		"climbing":     {Request{Name: "n", Mounts: last("mkdir/overlay", "X-containerd.mkdir.path="+d.Run("../../none"))}, errdefs.IsNotImplemented},
		"mode":         {Request{Name: "n", Mounts: last("mkdir/overlay", "X-containerd.mkdir.path="+d.Run("x")+":9")}, errdefs.IsInvalidArgument},
		"owner":        {Request{Name: "n", Mounts: last("mkdir/overlay", "X-containerd.mkdir.path="+d.Run("x")+":0700:-1:0")}, errdefs.IsInvalidArgument},
		"three words":  {Request{Name: "n", Mounts: last("mkdir/overlay", "X-containerd.mkdir.path="+d.Run("x")+":0700:1")}, errdefs.IsInvalidArgument},
		"other option": {Request{Name: "n", Mounts: last("mkdir/overlay", "X-containerd.mkdir.mode=1")}, errdefs.IsInvalidArgument},
		"no size":      {Request{Name: "n", Mounts: []mount.Mount{{Type: "mkfs/loop", Source: d.Run("i")}}}, errdefs.IsInvalidArgument},
		"bad size":     {Request{Name: "n", Mounts: []mount.Mount{{Type: "mkfs/loop", Source: d.Run("i"), Options: []string{"X-containerd.mkfs.size=x"}}}}, errdefs.IsInvalidArgument},
		"bad fs":       {Request{Name: "n", Mounts: []mount.Mount{{Type: "mkfs/loop", Source: d.Run("i"), Options: []string{"X-containerd.mkfs.size=1MiB", "X-containerd.mkfs.fs=ext4 -d /"}}}}, errdefs.IsInvalidArgument},
		"no file":      {Request{Name: "n", Mounts: []mount.Mount{tmpfs, {Type: "loop", Source: d.Run("none")}}}, os.IsNotExist},
	} {
		if _, err := Activate(ctx, d, "ns", c.r); err == nil || !c.is(err) && !(name == "no file" && strings.Contains(err.Error(), "no such file")) {
			t.Errorf("%s: %v", name, err)
		}
		if all := dirs(d); len(all) > 0 {
			t.Errorf("%s leaves %v", name, all)
		}
	}
}

// TestKilled: a process that is killed after it has mounted leaves a directory that nobody holds, and Drop unmounts all.
func TestKilled(t *testing.T) {
	d := open(t)
	a := Request{Name: "n"}.record("some")
	held, err := begin(ctx, d, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Name: "n", Temporary: true, Mounts: []mount.Mount{{Type: "tmpfs", Source: "a"}, {Type: "tmpfs", Source: "b"}}}
	if err := a.mount(ctx, d, r, makePlan(r)); err != nil {
		t.Fatal(err)
	}
	if !Live(d, "some") {
		t.Error("while it works it is taken for dead")
	}
	if err := held.Release(); err != nil { // as the kernel does for a process that is killed
		t.Fatal(err)
	}
	if Live(d, "some") {
		t.Error("dead, it is taken for live")
	}
	for range 2 {
		if err := Drop(d, "some"); err != nil {
			t.Error(err)
		}
	}
	if mounted, _ := mount.Mounted(a.Active[1].Point); mounted || len(dirs(d)) > 0 {
		t.Errorf("left: %v", dirs(d))
	}
}

func TestHeldByLease(t *testing.T) {
	d := open(t)
	err := d.Update(ctx, nil, func(tx *state.Tx) error {
		_, err := lease.Create(tx, "ns", "l", nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := Activate(ctx, d, "ns", Request{Name: "n", Lease: "l", Temporary: true, Mounts: []mount.Mount{{Type: "tmpfs", Source: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		err := d.Update(ctx, nil, func(tx *state.Tx) error {
			held, err := a.Held(tx, "ns", time.Now())
			if held != want {
				t.Errorf("held by its lease: %v, want %v", held, want)
			}
			if err != nil {
				return err
			}
			return unlessNotFound(lease.Remove(tx, "ns", "l"))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestUpdate(t *testing.T) {
	d := open(t)
	if _, err := Activate(ctx, d, "ns", Request{Name: "n", Labels: map[string]string{"a": "1", "b": "1"}, Temporary: true, Mounts: []mount.Mount{{Type: "tmpfs", Source: "a"}}}); err != nil {
		t.Fatal(err)
	}
	err := d.UpdateRun(ctx, nil, func(tx *state.Tx) error {
		_, err := Update(tx, "ns", "n", map[string]string{"a": "2", "b": "2"}, "labels.a")
		return err
	})
	a, gerr := get(t, d, "n")
	if err != nil || gerr != nil || a.Labels["a"] != "2" || a.Labels["b"] != "1" {
		t.Errorf("%v, %v: %v", err, gerr, a.Labels)
	}
}

func FuzzMkdir(f *testing.F) {
	f.Add("path=/a/b:0755:1:2")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDirectory(text)
		if err == nil && (d.mode&^0o777 != 0 || d.uid < -1 || !slices.Contains([]int{0, 1, 3}, strings.Count(text, ":"))) {
			t.Errorf("%q: %+v", text, d)
		}
	})
}
