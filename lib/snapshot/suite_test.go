// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// suite is what containerd's clients expect of any driver, on file systems of several kinds.
func suite(t *testing.T, sn *snapshot.Snapshotter, on ...disk) {
	for _, f := range on {
		t.Run(f.name, func(t *testing.T) { suiteOn(t, sn, f.mount(t)) })
	}
}

func suiteOn(t *testing.T, sn *snapshot.Snapshotter, at string) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *bench)
	}{
		{"Lifecycle", lifecycle},
		{"Layers", layers},
		{"Rebase", rebase},
		{"Errors", failures},
		{"Remove", removal},
		{"Namespaces", namespaces},
		{"Transient", transient},
		{"Labels", labels},
		{"Usage", usage},
		{"Root", rootOwner},
		{"Mapped", mapped},
		{"Deep", deep},
		{"Views", views},
		{"Layer", layerComesOut},
		{"Garbage", garbage},
		{"Events", events},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, newBench(t, sn, filepath.Join(at, c.name))) })
	}
	t.Run("OddRoot", func(t *testing.T) { layers(t, newBench(t, sn, filepath.Join(at, `a:b,c\d e`))) })
}

// bench is a state directory with one driver.
type bench struct {
	*testing.T
	sn   *snapshot.Snapshotter
	d    *state.Dir
	base string
}

func newBench(t *testing.T, sn *snapshot.Snapshotter, base string) *bench {
	t.Helper()
	return newBenchIn(t, sn, base, filepath.Join(base, "run"))
}

// newBenchIn is newBench with a state directory that lies elsewhere.
func newBenchIn(t *testing.T, sn *snapshot.Snapshotter, base, run string) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: run, Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t, sn, dir, base}
}

func (b *bench) update(fn func(*state.Tx) error) {
	b.Helper()
	if err := b.d.Update(b.Context(), nil, fn); err != nil {
		b.Fatal(err)
	}
}

// refused checks the kind of an error, and that nothing was changed.
func (b *bench) refused(is func(error) bool, fn func(*state.Tx) error) {
	b.Helper()
	before := b.dump()
	if err := b.d.Update(b.Context(), nil, fn); !is(err) {
		b.Errorf("got error %v", err)
	}
	if after := b.dump(); after != before {
		b.Errorf("records were\n%s\nare\n%s", before, after)
	}
}

func (b *bench) dump() string {
	var s strings.Builder
	b.view(func(tx *state.Tx) error {
		names, err := b.sn.Namespaces(tx)
		for _, ns := range names {
			for i, err := range b.sn.All(tx, ns) {
				fmt.Fprintln(&s, ns, i, err)
			}
		}
		return err
	})
	return s.String()
}

func (b *bench) view(fn func(*state.Tx) error) {
	b.Helper()
	if err := b.d.View(b.Context(), fn); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) staged() snapshot.ID { b.Helper(); return b.stagedOn("") }

// stagedOn stages a tree for a snapshot that gets this parent.
func (b *bench) stagedOn(parent string) snapshot.ID {
	b.Helper()
	var below snapshot.ID
	if parent != "" {
		below = b.get(parent).ID
	}
	id := snapshot.NewID()
	if err := b.sn.Stage(b.Context(), b.d, id, below); err != nil {
		b.Fatal(err)
	}
	return id
}

func (b *bench) prepare(key, parent string) {
	b.Helper()
	id := b.stagedOn(parent)
	b.update(func(tx *state.Tx) error {
		_, err := b.sn.Prepare(tx, "ns", key, parent, id, nil)
		return err
	})
}

func (b *bench) look(key, parent string) {
	b.Helper()
	id := b.stagedOn(parent)
	b.update(func(tx *state.Tx) error {
		_, err := b.sn.Look(tx, "ns", key, parent, id, nil)
		return err
	})
}

func (b *bench) commit(name, key string, o snapshot.CommitOptions) {
	b.Helper()
	was := b.get(key).ID
	o.ID = b.fixed(key)
	b.update(func(tx *state.Tx) error {
		_, err := b.sn.Commit(tx, "ns", name, key, o)
		return err
	})
	if o.ID != was {
		must(b.T, b.sn.Drop(b.d, was))
	}
}

// fixed makes of a snapshot what is committed.
func (b *bench) fixed(key string) snapshot.ID {
	b.Helper()
	f, err := b.sn.Fix(b.Context(), b.d, b.get(key).ID, snapshot.NewID())
	if err != nil {
		b.Fatal(err)
	}
	return f.ID
}

// layerID stages what PutLayer records.
func (b *bench) layerID(parent string) snapshot.ID {
	b.Helper()
	id := b.stagedOn(parent)
	if to, err := b.sn.Fix(b.Context(), b.d, id, id); err != nil || to.ID != id {
		b.Fatal(to, err)
	}
	return id
}

func (b *bench) get(key string) (s snapshot.Info) {
	b.Helper()
	b.view(func(tx *state.Tx) (err error) {
		s, err = b.sn.Get(tx, "ns", key)
		return err
	})
	return s
}

// in mounts a snapshot and calls fn with the place.
func (b *bench) in(key string, fn func(dir string)) {
	b.Helper()
	var m []mount.Mount
	b.view(func(tx *state.Tx) (err error) {
		m, err = b.sn.Mounts(b.Context(), tx, b.d, "ns", key)
		return err
	})
	dir := b.TempDir()
	if err := mount.All(m, dir); err != nil {
		b.Fatalf("%v: %v", m, err)
	}
	defer func() {
		if err := mount.Unmount(dir, unix.MNT_DETACH); err != nil {
			b.Error(err)
		}
	}()
	fn(dir)
}

func (b *bench) write(key, name, data string) {
	b.Helper()
	b.in(key, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			b.Error(err)
		}
	})
}

func (b *bench) read(key, name string) (data string) {
	b.Helper()
	b.in(key, func(dir string) {
		p, err := os.ReadFile(filepath.Join(dir, name))
		data = string(p)
		if err != nil {
			data = "error"
			if os.IsNotExist(err) {
				data = "none"
			}
		}
	})
	return data
}

func (b *bench) layer(name, parent string) {
	b.Helper()
	b.prepare("making "+name, parent)
	b.write("making "+name, "f", name)
	b.write("making "+name, "only-"+name, name)
	b.commit(name, "making "+name, snapshot.CommitOptions{})
}

func lifecycle(t *testing.T, b *bench) {
	b.prepare("a /key:with/slashes", "")
	if s := b.get("a /key:with/slashes"); s.Kind != snapshot.Active || s.Parent != "" || s.Created.IsZero() || s.ID == "" {
		t.Errorf("%+v", s)
	}
	b.write("a /key:with/slashes", "f", "one")
	active := b.get("a /key:with/slashes")
	if err := b.sn.Check(b.d, active); err != nil {
		t.Error(err)
	}
	b.commit("one", "a /key:with/slashes", snapshot.CommitOptions{Labels: map[string]string{"k": "v"}, Size: 12, Inodes: 3})
	s := b.get("one")
	if s.Kind != snapshot.Committed || b.sn.Check(b.d, s) != nil || s.Labels["k"] != "v" || s.Size != 12 || s.Inodes != 3 || !s.Created.After(active.Created) || !s.Updated.Equal(s.Created) {
		t.Errorf("%+v", s)
	}
	b.refused(errdefs.IsNotFound, func(tx *state.Tx) error {
		_, err := b.sn.Get(tx, "ns", active.Key)
		return err
	})
	b.prepare(active.Key, "one") // the key is free again
	b.look("view", "one")
	b.view(func(tx *state.Tx) error {
		var keys []string
		for s, err := range b.sn.All(tx, "ns") {
			if err != nil {
				t.Error(err)
			}
			keys = append(keys, s.Key+"="+string(s.Kind))
		}
		if got := strings.Join(keys, " "); got != "a /key:with/slashes=active one=committed view=view" {
			t.Errorf("%s", got)
		}
		return nil
	})
}

func layers(t *testing.T, b *bench) {
	b.layer("base", "")
	b.layer("middle", "base")
	b.layer("top", "middle")
	b.prepare("rw", "top")
	b.look("ro", "top")
	b.look("ro1", "base")
	b.look("ro0", "")
	for key, want := range map[string]string{"rw": "top", "ro": "top", "ro1": "base", "ro0": "none"} {
		if got := b.read(key, "f"); got != want {
			t.Errorf("%s shows %q, not %q", key, got, want)
		}
	}
	for _, n := range []string{"only-base", "only-middle", "only-top"} {
		if b.read("rw", n) == "none" {
			t.Errorf("%s is not seen", n)
		}
	}
	b.in("rw", func(dir string) {
		if err := os.Remove(dir + "/only-base"); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(dir+"/f", []byte("changed"), 0o644); err != nil {
			t.Error(err)
		}
	})
	if b.read("rw", "only-base") != "none" || b.read("rw", "f") != "changed" {
		t.Error("what was changed is not seen at the next mount")
	}
	if b.read("ro", "f") != "top" || b.read("ro", "only-base") != "base" {
		t.Error("a change shows in another snapshot")
	}
	for _, key := range []string{"ro", "ro1", "ro0"} {
		b.in(key, func(dir string) {
			if err := os.WriteFile(dir+"/no", nil, 0o644); err == nil {
				t.Errorf("%s is writable", key)
			}
		})
	}
	b.view(func(tx *state.Tx) error {
		chain, err := b.sn.Chain(tx, "ns", "rw")
		var keys []string
		for _, s := range chain {
			keys = append(keys, s.Key)
		}
		if !slices.Equal(keys, []string{"rw", "top", "middle", "base"}) {
			t.Errorf("chain %v", keys)
		}
		return err
	})
}

// rebase: layers are made without parents, in any order, and stacked when they are committed.
func rebase(t *testing.T, b *bench) {
	if !b.sn.Late() {
		b.layer("base", "")
		b.prepare("a", "")
		b.refused(errdefs.IsFailedPrecondition, func(tx *state.Tx) error {
			_, err := b.sn.Commit(tx, "ns", "late", "a", snapshot.CommitOptions{Parent: "base"})
			return err
		})
		return
	}
	for _, n := range []string{"2", "1", "0"} {
		b.prepare("a"+n, "")
		b.write("a"+n, "f", n)
		b.write("a"+n, "only"+n, n)
	}
	b.refused(errdefs.IsNotFound, func(tx *state.Tx) error {
		_, err := b.sn.Commit(tx, "ns", "l1", "a1", snapshot.CommitOptions{Parent: "l0"})
		return err
	})
	b.commit("l0", "a0", snapshot.CommitOptions{})
	b.commit("l1", "a1", snapshot.CommitOptions{Parent: "l0"})
	b.commit("l2", "a2", snapshot.CommitOptions{Parent: "l1"})
	b.prepare("rw", "l2")
	if b.read("rw", "f") != "2" || b.read("rw", "only0") != "0" || b.read("rw", "only1") != "1" {
		t.Error("the layers are not stacked")
	}
	b.refused(errdefs.IsInvalidArgument, func(tx *state.Tx) error {
		_, err := b.sn.Commit(tx, "ns", "other", "rw", snapshot.CommitOptions{Parent: "l1"})
		return err
	})
	b.commit("same", "rw", snapshot.CommitOptions{Parent: "l2"})
}

func failures(t *testing.T, b *bench) {
	b.layer("base", "")
	b.prepare("active", "base")
	b.look("view", "base")
	id := b.staged()
	prepare := func(key, parent string) func(*state.Tx) error {
		return func(tx *state.Tx) error {
			_, err := b.sn.Prepare(tx, "ns", key, parent, id, nil)
			return err
		}
	}
	commit := func(name, key string) func(*state.Tx) error {
		return func(tx *state.Tx) error {
			_, err := b.sn.Commit(tx, "ns", name, key, snapshot.CommitOptions{})
			return err
		}
	}
	mounts := func(key string) func(*state.Tx) error {
		return func(tx *state.Tx) error {
			_, err := b.sn.Mounts(b.Context(), tx, b.d, "ns", key)
			return err
		}
	}
	for _, key := range []string{"base", "active", "view"} {
		b.refused(errdefs.IsAlreadyExists, prepare(key, ""))
		b.refused(errdefs.IsAlreadyExists, commit(key, "active"))
	}
	b.refused(errdefs.IsInvalidArgument, prepare("", ""))
	b.refused(errdefs.IsInvalidArgument, prepare("new", "active"))
	b.refused(errdefs.IsInvalidArgument, prepare("new", "view"))
	b.refused(errdefs.IsNotFound, prepare("new", "none"))
	b.refused(errdefs.IsNotFound, commit("new", "none"))
	b.refused(errdefs.IsFailedPrecondition, commit("new", "view"))
	b.refused(errdefs.IsFailedPrecondition, commit("new", "base"))
	b.refused(errdefs.IsNotFound, mounts("none"))
	b.refused(errdefs.IsFailedPrecondition, mounts("base"))
	b.refused(func(err error) bool { return err != nil }, func(tx *state.Tx) error {
		_, err := b.sn.Prepare(tx, "ns", "new", "base", "0000000000000000", nil) // not staged
		return err
	})
}

func (b *bench) remove(key string) (ids []snapshot.ID) {
	b.Helper()
	b.update(func(tx *state.Tx) (err error) {
		ids, err = b.sn.Remove(tx, "ns", key)
		return err
	})
	return ids
}

func removal(t *testing.T, b *bench) {
	b.layer("base", "")
	b.layer("top", "base")
	b.prepare("rw", "top")
	remove := func(key string) func(*state.Tx) error {
		return func(tx *state.Tx) error {
			_, err := b.sn.Remove(tx, "ns", key)
			if errdefs.IsFailedPrecondition(err) && !strings.Contains(err.Error(), map[string]string{"base": `"top"`, "top": `"rw"`}[key]) {
				t.Errorf("the child is not named: %v", err)
			}
			return err
		}
	}
	b.refused(errdefs.IsFailedPrecondition, remove("base"))
	b.refused(errdefs.IsFailedPrecondition, remove("top"))
	b.refused(errdefs.IsNotFound, remove("none"))
	for _, key := range []string{"rw", "top", "base"} {
		id := b.get(key).ID
		if ids := b.remove(key); !slices.Equal(ids, []snapshot.ID{id}) {
			t.Errorf("%s: %v", key, ids)
		}
		if _, err := os.Stat(b.sn.Path(b.d, id)); err != nil {
			t.Errorf("the directory went before it was dropped: %v", err)
		}
		for range 2 {
			if err := b.sn.Drop(b.d, id); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(b.sn.Path(b.d, id)); !os.IsNotExist(err) {
			t.Errorf("%s stays: %v", id, err)
		}
	}
	b.d.EmptyTrash()
}

// namespaces: two of them share the directory of an image's layer, under names of their own.
func namespaces(t *testing.T, b *bench) {
	id := b.layerID("")
	put := func(ns, key string) {
		t.Helper()
		b.update(func(tx *state.Tx) error {
			return b.sn.PutLayer(tx, ns, snapshot.Info{Key: key, ID: id, Size: 1, Inodes: 1})
		})
	}
	put("ns", "chain")
	put("other", "chain")
	put("other", "chain") // a second pull
	b.refused(errdefs.IsNotFound, func(tx *state.Tx) error {
		_, err := b.sn.Get(tx, "third", "chain")
		return err
	})
	b.prepare("rw", "chain")
	b.update(func(tx *state.Tx) error {
		ids, err := b.sn.Remove(tx, "other", "chain") // rw of ns is no child of this one
		if len(ids) != 0 {
			t.Errorf("would drop %v, which another namespace uses", ids)
		}
		return err
	})
	b.remove("rw")
	if ids := b.remove("chain"); !slices.Equal(ids, []snapshot.ID{id}) {
		t.Errorf("nobody drops %s: %v", id, ids)
	}
}

// transient: what ends with the boot stands on what stays, never the other way round.
func transient(t *testing.T, b *bench) {
	b.layer("base", "")
	id := b.stagedOn("base")
	run := func(fn func(*state.Tx) error) {
		t.Helper()
		if err := b.d.UpdateRun(t.Context(), nil, fn); err != nil {
			t.Fatal(err)
		}
	}
	run(func(tx *state.Tx) error {
		_, err := b.sn.Prepare(tx, "ns", "run", "base", id, nil)
		return err
	})
	b.view(func(tx *state.Tx) error {
		for key, want := range map[string]bool{"run": true, "base": false} {
			if got, err := b.sn.Transient(tx, "ns", key); got != want || err != nil {
				t.Errorf("%s: %v, %v", key, got, err)
			}
		}
		return nil
	})
	if b.read("run", "f") != "base" {
		t.Error("the parent is not seen")
	}
	b.refused(errdefs.IsAlreadyExists, func(tx *state.Tx) error {
		_, err := b.sn.Prepare(tx, "ns", "run", "", b.staged(), nil)
		return err
	})
	b.refused(errdefs.IsFailedPrecondition, func(tx *state.Tx) error {
		_, err := b.sn.Remove(tx, "ns", "base")
		return err
	})
	fixed := b.fixed("run")
	run(func(tx *state.Tx) error {
		_, err := b.sn.Commit(tx, "ns", "run-done", "run", snapshot.CommitOptions{ID: fixed})
		return err
	})
	b.refused(errdefs.IsFailedPrecondition, func(tx *state.Tx) error {
		_, err := b.sn.Prepare(tx, "ns", "durable", "run-done", b.staged(), nil)
		return err
	})
	run(func(tx *state.Tx) error {
		ids, err := b.sn.Remove(tx, "ns", "run-done")
		if !slices.Equal(ids, []snapshot.ID{fixed}) {
			t.Errorf("%v", ids)
		}
		return err
	})
	b.remove("base")
}

func labels(t *testing.T, b *bench) {
	b.prepare("a", "")
	set := func(l map[string]string) func(*state.Tx) error {
		return func(tx *state.Tx) error {
			_, err := b.sn.Label(tx, "ns", "a", l)
			return err
		}
	}
	created := b.get("a")
	b.update(set(map[string]string{"x": "1", "y": "2"}))
	b.update(set(map[string]string{"x": "", "z": strings.Repeat("v", 4095)}))
	s := b.get("a")
	if len(s.Labels) != 2 || s.Labels["y"] != "2" || !s.Created.Equal(created.Created) || !s.Updated.After(created.Updated) {
		t.Errorf("%.200v", s)
	}
	b.refused(errdefs.IsInvalidArgument, set(map[string]string{"z": strings.Repeat("v", 4096)}))
	b.refused(errdefs.IsInvalidArgument, set(map[string]string{"": "v"}))
	b.refused(errdefs.IsInvalidArgument, func(tx *state.Tx) error {
		_, err := b.sn.Commit(tx, "ns", "c", "a", snapshot.CommitOptions{Labels: map[string]string{"": "v"}})
		return err
	})
	b.refused(errdefs.IsInvalidArgument, func(tx *state.Tx) error {
		_, err := b.sn.Prepare(tx, "ns", "b", "", b.staged(), map[string]string{strings.Repeat("k", 4097): ""})
		return err
	})
	b.refused(errdefs.IsNotFound, func(tx *state.Tx) error {
		_, err := b.sn.Label(tx, "ns", "none", nil)
		return err
	})
}

func usage(t *testing.T, b *bench) {
	b.layer("base", "")
	b.prepare("rw", "base")
	empty, n0, err := b.sn.Usage(t.Context(), b.d, b.get("rw").ID)
	if err != nil {
		t.Fatal(err)
	}
	b.write("rw", "big", strings.Repeat("x", 1<<20))
	b.in("rw", func(dir string) {
		if err := os.Link(dir+"/big", dir+"/big2"); err != nil {
			t.Error(err)
		}
	})
	unix.Sync() // some file systems give blocks only then
	full, n1, err := b.sn.Usage(t.Context(), b.d, b.get("rw").ID)
	if err != nil || full-empty < 1<<20 || full-empty > 2<<20 || n1-n0 != 1 {
		t.Errorf("grew from %d bytes, %d inodes to %d, %d: %v", empty, n0, full, n1, err)
	}
	if _, _, err := b.sn.Usage(t.Context(), b.d, "0000000000000000"); err == nil {
		t.Error("usage of nothing")
	}
}

// mapped: the layers below are seen as a user namespace has them, and so is the root of what is on top.
func mapped(t *testing.T, b *bench) {
	b.layer("base", "")
	b.layer("more", "base")
	prepare := func(key string, labels map[string]string) error {
		id := b.stagedOn("more")
		return b.d.Update(t.Context(), nil, func(tx *state.Tx) error {
			_, err := b.sn.Prepare(tx, "ns", key, "more", id, labels)
			return err
		})
	}
	err := prepare("c", map[string]string{snapshot.LabelUIDMapping: "0:100000:65536", snapshot.LabelGIDMapping: "0:200000:65536"})
	if errdefs.IsNotImplemented(err) && !b.sn.Maps(b.d) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	b.in("c", func(dir string) {
		for _, name := range []string{"", "f", "only-base"} {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Uid != 100000 || st.Gid != 200000 {
				t.Errorf("%q: %d:%d %v", name, st.Uid, st.Gid, err)
			}
		}
	})
	if err := prepare("bad", map[string]string{snapshot.LabelUIDMapping: "0:1"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
	if got := b.read("c", "f"); got != "more" {
		t.Errorf("%q", got)
	}
}

// rootOwner: the root directory of an image stays what it was in every snapshot above.
func rootOwner(t *testing.T, b *bench) {
	b.prepare("a", "")
	b.in("a", func(dir string) {
		os.Chown(dir, 12, 34)
		os.Chmod(dir, os.ModeSticky|0o750)
	})
	b.commit("base", "a", snapshot.CommitOptions{})
	b.prepare("b", "base")
	b.in("b", func(dir string) {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil || st.Uid != 12 || st.Gid != 34 || st.Mode&0o7777 != 0o1750 {
			t.Errorf("%d:%d %o %v", st.Uid, st.Gid, st.Mode, err)
		}
	})
}

// deep: a chain of as many layers as the kernel stacks mounts.
func deep(t *testing.T, b *bench) {
	var parent string
	for i := range mount.MaxLayers {
		id := b.layerID(parent)
		key := fmt.Sprintf("l%d", i)
		b.update(func(tx *state.Tx) error {
			return b.sn.PutLayer(tx, "ns", snapshot.Info{Key: key, ID: id, Parent: parent})
		})
		parent = key
	}
	b.prepare("rw", parent)
	b.write("rw", "f", "x")
	b.look("ro", parent)
	if b.read("rw", "f") != "x" || b.read("ro", "f") != "none" {
		t.Error("wrong tree")
	}
}

func events(t *testing.T, b *bench) {
	b.layer("base", "")
	b.look("v", "base")
	b.remove("v")
	direct := b.layerID("")
	b.update(func(tx *state.Tx) error {
		return b.sn.PutLayer(tx, "ns", snapshot.Info{Key: "direct", ID: direct})
	})
	var got []string
	for e, err := range b.d.Journal().Read(t.Context(), 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		var data map[string]string
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %s/%s/%s %s", e.Namespace, e.Topic, data["key"], data["name"], data["parent"], data["snapshotter"]))
	}
	want := []string{
		"ns /snapshot/prepare making base// ",
		"ns /snapshot/commit making base/base/ ",
		"ns /snapshot/prepare v//base ",
		"ns /snapshot/remove v// ",
		"ns /snapshot/commit direct/direct/ ",
	}
	for i := range want {
		want[i] += b.sn.Name()
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// views: one committed snapshot is looked at by ten at once.
func views(t *testing.T, b *bench) {
	b.layer("base", "")
	b.layer("top", "base")
	var at func(n int)
	at = func(n int) {
		if n == 10 {
			return
		}
		key := fmt.Sprint("view", n)
		b.look(key, "top")
		b.in(key, func(dir string) {
			at(n + 1)
			if data, err := os.ReadFile(dir + "/only-base"); string(data) != "base" {
				t.Errorf("view %d: %q %v", n, data, err)
			}
			if err := os.Remove(dir + "/f"); err == nil {
				t.Errorf("view %d is writable", n)
			}
		})
	}
	at(0)
	b.refused(errdefs.IsFailedPrecondition, func(tx *state.Tx) error {
		_, err := b.sn.Remove(tx, "ns", "top")
		return err
	})
}

// layerComesOut: a layer that goes in by mounts comes out of the committed snapshot as it was, byte for byte.
func layerComesOut(t *testing.T, b *bench) {
	b.layer("base", "")
	base, changed := b.dir(), b.dir()
	for _, dir := range []string{base, changed} {
		must(t, os.WriteFile(dir+"/f", []byte("base"), 0o644))
		must(t, os.WriteFile(dir+"/only-base", []byte("base"), 0o644))
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, os.Remove(changed+"/only-base"))
	must(t, os.MkdirAll(changed+"/d/e", 0o755))
	must(t, os.WriteFile(changed+"/d/set-id", []byte("x"), 0o644))
	must(t, os.Lchown(changed+"/d/set-id", 12, 34))
	must(t, os.Chmod(changed+"/d/set-id", 0o4755|os.ModeSetuid))
	must(t, os.Link(changed+"/d/set-id", changed+"/d/e/second"))
	must(t, os.Symlink("../d", changed+"/d/link"))
	must(t, unix.Mkfifo(changed+"/d/fifo", 0o600))
	must(t, unix.Mknod(changed+"/d/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Setxattr(changed+"/d/e", "trusted.x", []byte("v"), 0))
	must(t, unix.Setxattr(changed+"/f", "security.capability", []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	must(t, os.WriteFile(changed+"/d/"+strings.Repeat("n", 255), nil, 0o400))
	must(t, os.WriteFile(changed+"/d/caf\xe9 \n", []byte(strings.Repeat("0123456789abcdef", 1000)), 0o644))
	for i := range 300 {
		must(t, os.WriteFile(fmt.Sprintf("%s/d/e/file-%d", changed, i), []byte(strings.Repeat("y", i*7)), 0o644))
	}
	holed, err := os.Create(changed + "/d/holed")
	must(t, err)
	must(t, holed.Truncate(5<<20))
	_, err = holed.WriteAt([]byte("data"), 3<<20)
	must(t, errors.Join(err, holed.Close()))
	when := time.Unix(1234567890, 123456789)
	for _, name := range []string{"/d/e/file-7", "/d/e", "/d", "/f"} {
		must(t, os.Chtimes(changed+name, when, when))
	}
	must(t, os.Chtimes(base, when, when))
	must(t, os.Chtimes(changed, when, when.Add(time.Second)))
	var in bytes.Buffer
	_, err = diff.Write(t.Context(), &in, diff.Tree{base}, diff.Tree{changed}, diff.Options{Compression: diff.None})
	must(t, err)

	b.prepare("a", "base")
	want := in.Bytes()
	mounts := func(key string) (m []mount.Mount) {
		b.view(func(tx *state.Tx) (err error) {
			m, err = b.sn.Mounts(b.Context(), tx, b.d, "ns", key)
			return err
		})
		return m
	}
	_, err = diff.Apply(t.Context(), bytes.NewReader(want), layer.Options{}, mounts("a"))
	must(t, err)
	_, err = b.sn.Seal(t.Context(), b.d, "ns", "top", "a", snapshot.CommitOptions{}, nobody)
	must(t, err)
	b.look("lower", "base")
	b.look("upper", "top")
	var out bytes.Buffer
	_, err = diff.Compare(t.Context(), &out, mounts("lower"), mounts("upper"), diff.Options{Compression: diff.None})
	must(t, err)
	if !bytes.Equal(out.Bytes(), want) {
		went, came := names(t, want), names(t, out.Bytes())
		for line := range went {
			if !came[line] {
				t.Errorf("went in: %s", line)
			}
		}
		for line := range came {
			if !went[line] {
				t.Errorf("came out: %s", line)
			}
		}
		t.Errorf("%d bytes went in, %d other ones came out", len(want), out.Len())
	}
}

// names lists a tar.
func names(t *testing.T, data []byte) map[string]bool {
	all := map[string]bool{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		must(t, err)
		all[fmt.Sprintf("%c %q %q %o %d:%d %d %s %q", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.Size, h.ModTime, h.PAXRecords)] = true
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// garbage: what a kill left of a commit or a staging is dropped like any other.
func garbage(t *testing.T, b *bench) {
	b.layer("base", "")
	b.prepare("a", "base")
	b.write("a", "f", "kept")
	left := b.fixed("a")
	if left != b.get("a").ID {
		must(t, b.sn.Drop(b.d, left))
	}
	if b.sn.Name() == "proxied" {
		// It is committed at its server already: until the commit is made again it is refused.
		b.view(func(tx *state.Tx) error {
			if _, err := b.sn.Mounts(b.Context(), tx, b.d, "ns", "a"); !errdefs.IsFailedPrecondition(err) {
				t.Error(err)
			}
			return nil
		})
		_, err := b.sn.Seal(t.Context(), b.d, "ns", "done", "a", snapshot.CommitOptions{}, nobody)
		must(t, err)
		b.look("view", "done")
		if got := b.read("view", "f"); got != "kept" {
			t.Errorf("%q", got)
		}
		return
	}
	if b.write("a", "f", "changed"); b.read("a", "f") != "changed" {
		t.Error("an active snapshot is read-only after a commit that was killed")
	}
	if _, err := b.sn.Seal(t.Context(), b.d, "ns", "done", "a", snapshot.CommitOptions{}, nobody); err != nil {
		t.Fatal(err)
	}
	b.look("view", "done")
	if got := b.read("view", "f"); got != "changed" {
		t.Errorf("%q", got)
	}
	want := map[snapshot.ID]bool{}
	for _, key := range []string{"base", "done", "view"} {
		want[b.get(key).ID] = true
	}
	for id, err := range b.sn.Dirs(b.d) {
		if err != nil || !want[id] {
			t.Errorf("left: %s %v", id, err)
		}
	}
	for _, key := range []string{"view", "done", "base"} {
		for _, id := range b.remove(key) {
			must(t, b.sn.Drop(b.d, id))
		}
	}
	b.d.EmptyTrash()
	if left, err := os.ReadDir(b.d.Path("trash")); err != nil || len(left) != 0 {
		t.Errorf("in the trash: %v %v", left, err)
	}
}
