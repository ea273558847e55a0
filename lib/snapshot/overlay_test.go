// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

func TestOverlay(t *testing.T) { suite(t, snapshot.Overlay, here, xfs, btrfs) }

func TestNative(t *testing.T) { suite(t, snapshot.Native, here, xfs, btrfs) }

func TestErofs(t *testing.T) { suite(t, snapshot.Erofs, here, xfs, btrfs) }

func TestBtrfs(t *testing.T) { suite(t, snapshot.Btrfs, btrfs) }

// TestOverlayMounts: the shapes that containerd's overlay snapshotter gives its clients.
func TestOverlayMounts(t *testing.T) {
	b := newBench(t, snapshot.Overlay, t.TempDir())
	b.layer("base", "")
	b.layer("top", "base")
	b.prepare("rw0", "")
	b.look("ro0", "")
	b.prepare("rw1", "base")
	b.look("ro1", "base")
	b.prepare("rw2", "top")
	b.look("ro2", "top")
	fs := func(key string) string { return snapshot.Overlay.FS(b.d, b.get(key).ID) }
	work := func(key string) string { return snapshot.Overlay.Path(b.d, b.get(key).ID, "work") }
	for key, want := range map[string]mount.Mount{
		"rw0": {Type: "bind", Source: fs("rw0"), Options: []string{"rw", "rbind"}},
		"ro0": {Type: "bind", Source: fs("ro0"), Options: []string{"ro", "rbind"}},
		"ro1": {Type: "bind", Source: fs("base"), Options: []string{"ro", "rbind"}},
		"rw1": {Type: "overlay", Source: "overlay", Options: append([]string{"workdir=" + work("rw1"), "upperdir=" + fs("rw1"), "lowerdir=" + fs("base")}, mount.Plain()...)},
		"rw2": {Type: "overlay", Source: "overlay", Options: append([]string{"workdir=" + work("rw2"), "upperdir=" + fs("rw2"), "lowerdir=" + fs("top") + ":" + fs("base")}, mount.Plain()...)},
		"ro2": {Type: "overlay", Source: "overlay", Options: append([]string{"lowerdir=" + fs("top") + ":" + fs("base")}, mount.Plain()...)},
	} {
		b.view(func(tx *state.Tx) error {
			got, err := snapshot.Overlay.Mounts(t.Context(), tx, b.d, "ns", key)
			if fmt.Sprint(got) != fmt.Sprint([]mount.Mount{want}) {
				t.Errorf("%s: %q", key, got)
			}
			return err
		})
	}
}

func TestDirs(t *testing.T) {
	b := newBench(t, snapshot.Overlay, t.TempDir())
	for range snapshot.Overlay.Dirs(b.d) {
		t.Error("there is one already")
	}
	b.prepare("a", "")
	garbage := b.staged()
	found := map[snapshot.ID]bool{}
	for id, err := range snapshot.Overlay.Dirs(b.d) {
		if err != nil {
			t.Fatal(err)
		}
		found[id] = true
	}
	if len(found) != 2 || !found[garbage] || !found[b.get("a").ID] {
		t.Errorf("%v", found)
	}
	if err := snapshot.Overlay.Sync(b.d, garbage, false); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(snapshot.Overlay.Path(b.d, garbage)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("others can enter a snapshot: %v %v", st.Mode(), err)
	}
}

func TestLayerID(t *testing.T) {
	d := digest.FromString("x")
	if id := snapshot.LayerID(d); string(id) != d.Encoded() {
		t.Errorf("%s", id)
	}
	if a, b := snapshot.NewID(), snapshot.NewID(); a == b || len(a) != 16 {
		t.Errorf("%s %s", a, b)
	}
}

// TestShortNames: the layers of a deep overlay have names that fit what mount(2) and containerd's shims take, as long
// as the layers are there.
func TestShortNames(t *testing.T) {
	b := newBench(t, snapshot.Overlay, t.TempDir())
	stack := func(n int) {
		parent := ""
		for i := range n {
			id := snapshot.LayerID(digest.FromString(fmt.Sprint(i)))
			if err := snapshot.Overlay.Stage(t.Context(), b.d, id, ""); err != nil {
				t.Fatal(err)
			}
			key := fmt.Sprint("l", i)
			b.update(func(tx *state.Tx) error {
				return snapshot.Overlay.PutLayer(tx, "ns", snapshot.Info{Key: key, ID: id, Parent: parent})
			})
			parent = key
		}
		b.prepare("rw", parent)
	}
	stack(128)
	var m []mount.Mount
	for range 2 {
		b.view(func(tx *state.Tx) (err error) {
			m, err = snapshot.Overlay.Mounts(t.Context(), tx, b.d, "ns", "rw")
			return err
		})
	}
	b.write("rw", "f", "x")
	lower := strings.Split(strings.TrimPrefix(m[0].Options[2], "lowerdir="), ":")
	if len(lower) != 128 || len(filepath.Base(lower[0])) != 10 {
		t.Fatalf("%d layers, the first is %s", len(lower), lower[0])
	}
	for i, l := range lower {
		tree := snapshot.Overlay.FS(b.d, snapshot.LayerID(digest.FromString(fmt.Sprint(127-i))))
		if to, err := os.Readlink(l); err != nil || to != tree {
			t.Errorf("%s is %s, not %s: %v", l, to, tree, err)
		}
	}
	// Another tree has a name already.
	if err := errors.Join(os.Remove(lower[5]), os.Symlink("/usr", lower[5])); err != nil {
		t.Fatal(err)
	}
	b.view(func(tx *state.Tx) (err error) {
		m, err = snapshot.Overlay.Mounts(t.Context(), tx, b.d, "ns", "rw")
		return err
	})
	if again := strings.Split(strings.TrimPrefix(m[0].Options[2], "lowerdir="), ":"); len(filepath.Base(again[5])) != 11 || again[6] != lower[6] {
		t.Errorf("%s after %s", again[5], lower[5])
	}
	if err := snapshot.Overlay.Drop(b.d, snapshot.LayerID(digest.FromString("0"))); err != nil {
		t.Fatal(err)
	}
	if err := snapshot.SweepAliases(b.d); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Dir(lower[0])); err != nil || len(left) != 128 {
		t.Errorf("%d names, %v", len(left), err)
	}
}

// TestFieldsOfNewerPrograms: they survive a commit and a new key.
func TestFieldsOfNewerPrograms(t *testing.T) {
	b := newBench(t, snapshot.Overlay, t.TempDir())
	type newer struct {
		snapshot.Info
		Extra string `json:"extra"`
	}
	table := state.Table[newer]{Name: "snapshots/overlayfs"}
	b.prepare("a", "")
	b.update(func(tx *state.Tx) error {
		s, err := table.Get(tx, "ns", "a")
		s.Extra = "keep me"
		return errors.Join(err, table.Put(tx, "ns", "a", s))
	})
	b.update(func(tx *state.Tx) error { return snapshot.Overlay.Rename(tx, "ns", "a", "b") })
	b.commit("c", "b", snapshot.CommitOptions{})
	b.view(func(tx *state.Tx) error {
		s, err := table.Get(tx, "ns", "c")
		if s.Extra != "keep me" || s.Kind != snapshot.Committed {
			t.Errorf("%+v", s)
		}
		return err
	})
}
