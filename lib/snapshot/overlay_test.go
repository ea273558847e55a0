// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

var overlay = driver{
	newID: snapshot.NewID, stage: snapshot.Stage, mounts: snapshot.Mounts, usage: snapshot.Usage, drop: snapshot.Drop,
	dir: func(d *state.Dir, id snapshot.ID) string { return snapshot.Path(d, id) },
}

func TestOverlay(t *testing.T) { suite(t, overlay) }

// TestOverlayMounts: the shapes that containerd's overlay snapshotter gives its clients.
func TestOverlayMounts(t *testing.T) {
	b := newBench(t, overlay, t.TempDir())
	b.layer("base", "")
	b.layer("top", "base")
	b.prepare("rw0", "")
	b.look("ro0", "")
	b.prepare("rw1", "base")
	b.look("ro1", "base")
	b.prepare("rw2", "top")
	b.look("ro2", "top")
	fs := func(key string) string { return snapshot.FS(b.d, b.get(key).ID) }
	work := func(key string) string { return snapshot.Path(b.d, b.get(key).ID, "work") }
	for key, want := range map[string]mount.Mount{
		"rw0": {Type: "bind", Source: fs("rw0"), Options: []string{"rw", "rbind"}},
		"ro0": {Type: "bind", Source: fs("ro0"), Options: []string{"ro", "rbind"}},
		"ro1": {Type: "bind", Source: fs("base"), Options: []string{"ro", "rbind"}},
		"rw1": {Type: "overlay", Source: "overlay", Options: []string{"workdir=" + work("rw1"), "upperdir=" + fs("rw1"), "lowerdir=" + fs("base"), "index=off"}},
		"rw2": {Type: "overlay", Source: "overlay", Options: []string{"workdir=" + work("rw2"), "upperdir=" + fs("rw2"), "lowerdir=" + fs("top") + ":" + fs("base"), "index=off"}},
		"ro2": {Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + fs("top") + ":" + fs("base"), "index=off"}},
	} {
		b.view(func(tx *state.Tx) error {
			got, err := snapshot.Mounts(tx, b.d, "ns", key)
			if fmt.Sprint(got) != fmt.Sprint([]mount.Mount{want}) {
				t.Errorf("%s: %q", key, got)
			}
			return err
		})
	}
}

func TestDirs(t *testing.T) {
	b := newBench(t, overlay, t.TempDir())
	for range snapshot.Dirs(b.d) {
		t.Error("there is one already")
	}
	b.prepare("a", "")
	garbage := b.staged()
	found := map[snapshot.ID]bool{}
	for id, err := range snapshot.Dirs(b.d) {
		if err != nil {
			t.Fatal(err)
		}
		found[id] = true
	}
	if len(found) != 2 || !found[garbage] || !found[b.get("a").ID] {
		t.Errorf("%v", found)
	}
	if err := snapshot.Sync(b.d, garbage); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(snapshot.Path(b.d, garbage)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("others can enter a snapshot: %v %v", st.Mode(), err)
	}
}

func TestLayerID(t *testing.T) {
	d := digest.FromString("x")
	if id := snapshot.LayerID(d); string(id) != d.Encoded()[:16] {
		t.Errorf("%s", id)
	}
	if a, b := snapshot.NewID(), snapshot.NewID(); a == b || len(a) != 16 {
		t.Errorf("%s %s", a, b)
	}
}

// TestFieldsOfNewerPrograms: they survive a commit and a new key.
func TestFieldsOfNewerPrograms(t *testing.T) {
	b := newBench(t, overlay, t.TempDir())
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
	b.update(func(tx *state.Tx) error { return snapshot.Rename(tx, "ns", "a", "b") })
	b.commit("c", "b", snapshot.CommitOptions{})
	b.view(func(tx *state.Tx) error {
		s, err := table.Get(tx, "ns", "c")
		if s.Extra != "keep me" || s.Kind != snapshot.Committed {
			t.Errorf("%+v", s)
		}
		return err
	})
}
