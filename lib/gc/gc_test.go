// SPDX-License-Identifier: Apache-2.0

package gc_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	bolt "go.etcd.io/bbolt"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// An empty state directory stays one.
func TestNothing(t *testing.T) {
	w := fresh(t)
	if r := w.collect(); r != (gc.Removed{}) {
		t.Errorf("removed %+v", r)
	}
	w.want("", "")
}

// Images keep what they share; what only one of them has goes with it.
func TestImages(t *testing.T) {
	w := fresh(t)
	w.image("default", "web", "base", "nginx")
	w.image("default", "app", "base", "python", "code")
	if r := w.collect(); r != (gc.Removed{}) {
		t.Errorf("removed %+v", r)
	}
	w.want("app-config app-manifest base code nginx python web-config web-manifest", "base base+nginx base+python base+python+code")
	w.unname("default", "app")
	r := w.collect()
	// Blobs, and their files and directories: manifest, configuration and two layers.
	if r.Blobs != 4 || r.Snapshots != 2 || r.Files != 6 || r.Bytes < int64(len("python"+"code"+"app-config")) {
		t.Errorf("removed %+v", r)
	}
	w.want("base nginx web-config web-manifest", "base base+nginx")
	w.unname("default", "web")
	w.collect()
	w.want("", "")
	if r := w.collect(); r != (gc.Removed{}) {
		t.Errorf("removed again %+v", r)
	}
}

// What the server of a snapshotter may have, which does not answer, is neither removed nor said to be.
func TestServerAway(t *testing.T) {
	w := fresh(t)
	if err := snapshot.Serve(snapshot.Proxy{Name: "away", Address: filepath.Join(t.TempDir(), "none.sock")}); err != nil {
		t.Fatal(err)
	}
	defer snapshot.Serve()
	for _, id := range []string{"0123456789abcdef", "fedcba9876543210"} {
		dir := w.d.Path("snapshots", "away", id)
		err := os.MkdirAll(filepath.Join(dir, "fs"), 0o700)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "proxy.json"), []byte(`{"key":"ctrd/x/`+id+`"}`), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if r := w.collect(); r != (gc.Removed{}) {
		t.Errorf("removed %+v", r)
	}
	if left, _ := os.ReadDir(w.d.Path("snapshots", "away")); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

// An index keeps the manifests that are here through any number of levels, and minds none that is not.
func TestIndexes(t *testing.T) {
	w := fresh(t)
	m := w.manifest("default", "a", "base")
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("of another platform"), Size: 7}
	inner := w.index("default", "inner", m, absent)
	outer := w.index("default", "outer", absent, inner)
	w.name("default", "multi", outer)
	w.blob("default", "loose")
	w.collect()
	w.want("a-config a-manifest base inner outer", "base")
	w.unname("default", "multi")
	w.name("default", "part", inner)
	w.collect()
	w.want("a-config a-manifest base inner", "base")
}

// Labels refer from any kind of record, in containerd's spellings and in no other.
func TestLabels(t *testing.T) {
	w := fresh(t)
	ref := func(name, suffix string) []string {
		return []string{"containerd.io/gc.ref.content" + suffix, digest.FromString(name).String()}
	}
	for _, b := range []string{"plain", "dot", "slash", "dash", "letters", "by-image", "by-snapshot", "by-container"} {
		w.blob("default", b)
	}
	for _, s := range []string{"exact", "named", "other", "longer", "dotted", "by-image-too"} {
		w.layer("default", s, "")
	}
	w.layer("default", "holds", "", ref("by-snapshot", "")...)
	var all []string
	all = append(all, ref("plain", "")...)
	all = append(all, ref("dot", ".x")...)
	all = append(all, ref("slash", "/x")...)
	all = append(all, ref("dash", "-x")...)
	all = append(all, ref("letters", "s")...)
	all = append(all, "containerd.io/gc.ref.snapshot.overlayfs", "exact", "containerd.io/gc.ref.snapshot.overlayfs/2", "named",
		"containerd.io/gc.ref.snapshot.native", "other", "containerd.io/gc.ref.snapshot.overlayfs2", "longer", "containerd.io/gc.ref.snapshot.overlayfs.2", "dotted")
	root := w.blob("default", "root", all...)
	target := ocispec.Descriptor{Digest: root, Size: 4, MediaType: "text/plain"}
	w.name("default", "i", target, append(ref("by-image", ".x"), "containerd.io/gc.ref.snapshot.overlayfs", "by-image-too")...)
	w.update(func(tx *state.Tx) error {
		_, err := container.Create(tx, "default", container.Container{ID: "c", SnapshotKey: "holds", Labels: labels(ref("by-container", "")...)}, &specs.Spec{})
		return err
	})
	w.collect()
	w.want("by-container by-image by-snapshot dot plain root slash", "by-image-too exact holds named")
}

func TestRoots(t *testing.T) {
	w := fresh(t)
	for _, key := range []string{"under-root", "under-active", "under-view", "loose", "under-loose"} {
		w.layer("default", key, "")
	}
	w.layer("default", "root", "under-root", "containerd.io/gc.root", "2026-01-01T00:00:00Z")
	w.layer("default", "child", "under-loose")
	w.tree("active")
	w.tree("view")
	w.update(func(tx *state.Tx) error {
		if _, err := snapshot.Overlay.Prepare(tx, "default", "active", "under-active", id("active"), nil); err != nil {
			return err
		}
		_, err := snapshot.Overlay.Look(tx, "default", "view", "under-view", id("view"), nil)
		return err
	})
	below := w.blob("default", "below")
	w.blob("default", "blob-root", "containerd.io/gc.root", "", "containerd.io/gc.ref.content", below.String())
	w.blob("default", "loose-blob")
	w.collect()
	w.want("below blob-root", "active root under-active under-root under-view view")
}

// Snapshots that clients have prepared are kept by what refers to them alone.
func TestClients(t *testing.T) {
	w := fresh(t)
	w.layer("default", "parent", "")
	for _, key := range []string{"client", "client-view", "client-root", "client-held"} {
		s := snapshot.Info{Key: key, Kind: snapshot.Active, Parent: "parent", Client: true}
		switch key {
		case "client-view":
			s.Kind = snapshot.View
		case "client-root":
			s.Labels = labels("containerd.io/gc.root", "x")
		}
		_, err := snapshot.Overlay.Create(ctx, w.d, "default", s)
		w.must(err)
	}
	w.update(func(tx *state.Tx) error {
		_, err := container.Create(tx, "default", container.Container{ID: "c", SnapshotKey: "client-held"}, &specs.Spec{})
		return err
	})
	w.collect()
	var left []string
	err := w.d.View(ctx, func(tx *state.Tx) error {
		for s, err := range snapshot.Overlay.All(tx, "default") {
			if err != nil {
				return err
			}
			left = append(left, s.Key)
		}
		return nil
	})
	w.must(err)
	if want := []string{"client-held", "client-root", "parent"}; !slices.Equal(left, want) {
		t.Errorf("snapshots: %q, want %q", left, want)
	}
}

// A container keeps its snapshot when its image is gone, be it in the one or the other database.
func TestContainers(t *testing.T) {
	for _, durable := range []bool{true, false} {
		t.Run(fmt.Sprint("durable ", durable), func(t *testing.T) {
			w := fresh(t)
			w.image("default", "web", "base", "nginx")
			for _, name := range []string{"c1", "c2"} {
				// Somebody is at them: a transient container that nobody has is removed itself.
				l, err := w.d.Lock(ctx, nil, lock.Container, "default/"+name, lock.Exclusive)
				w.must(err)
				defer l.Release()
			}
			w.container(durable, "default", "c1", "base+nginx")
			w.layer("default", "committed", "base") // what a container refers to without writing in it
			update := w.run
			if durable {
				update = w.update
			}
			update(func(tx *state.Tx) error {
				_, err := container.Create(tx, "default", container.Container{ID: "c2", SnapshotKey: "committed"}, &specs.Spec{})
				return err
			})
			w.unname("default", "web")
			w.collect()
			w.want("", "base base+nginx c1 committed")
			update(func(tx *state.Tx) error {
				if _, err := snapshot.Overlay.Remove(tx, "default", "c1"); err != nil {
					return err
				}
				return container.Remove(tx, "default", "c1")
			})
			w.collect()
			w.want("", "base committed")
			update(func(tx *state.Tx) error { return container.Remove(tx, "default", "c2") })
			w.collect()
			w.want("", "")
		})
	}
}

// Records of run.db are collected like the others, with the children in it before parents in meta.db.
func TestTransientRecords(t *testing.T) {
	w := fresh(t)
	w.layer("default", "base", "")
	w.tree("t1")
	w.tree("t2")
	w.tree("kept")
	w.run(func(tx *state.Tx) error {
		for _, s := range []snapshot.Info{{Key: "t1", ID: id("t1"), Parent: "base"}, {Key: "t2", ID: id("t2"), Parent: "t1"}} {
			if err := snapshot.Overlay.PutLayer(tx, "default", s); err != nil {
				return err
			}
		}
		_, err := snapshot.Overlay.Prepare(tx, "default", "kept", "t1", id("kept"), nil)
		return err
	})
	if r := w.collect(); r.Snapshots != 1 || r.Files != 1 {
		t.Errorf("removed %+v", r)
	}
	w.want("", "base kept t1")
	w.run(func(tx *state.Tx) error {
		_, err := snapshot.Overlay.Remove(tx, "default", "kept")
		return err
	})
	if r := w.collect(); r.Snapshots != 2 || r.Files != 3 {
		t.Errorf("removed %+v", r)
	}
	w.want("", "")
}

// A lease keeps what it names, with all that refers on from there, until it is released.
func TestLeases(t *testing.T) {
	w := fresh(t)
	m := w.image("default", "web", "base", "nginx")
	w.layer("default", "by-key", "base")
	w.layer("default", "by-id", "base")
	w.layer("default", "loose", "base")
	w.unname("default", "web")
	l, err := lease.Take(w.d)
	w.must(err)
	w.must(l.Hold(ctx, nil, lease.Content, m.String()))
	w.must(l.Hold(ctx, nil, lease.Snapshot, "default/by-key", string(id("by-id")), "other/loose"))
	w.collect()
	w.want("base nginx web-config web-manifest", "base base+nginx by-id by-key")
	w.must(l.Release())
	w.collect()
	w.want("", "")
}

// Two namespaces share files and directories, which go with the last record.
func TestNamespaces(t *testing.T) {
	w := fresh(t)
	for _, ns := range []string{"default", "other"} {
		w.image(ns, "web", "base", "nginx")
	}
	w.unname("default", "web")
	if r := w.collect(); r.Blobs != 4 || r.Snapshots != 2 || r.Files != 0 {
		t.Errorf("removed %+v", r)
	}
	all, layers := "base nginx web-config web-manifest", "base base+nginx"
	if w.blobs("default") != "" || w.keys("default") != "" || w.blobs("other") != all || w.keys("other") != layers || w.files() != all || w.dirs() != layers {
		t.Errorf("default has %s and %s, other has %s and %s, files %s, directories %s", w.blobs("default"), w.keys("default"), w.blobs("other"), w.keys("other"), w.files(), w.dirs())
	}
	w.whole()
	w.unname("other", "web")
	if r := w.collect(); r.Blobs != 4 || r.Snapshots != 2 || r.Files != 6 {
		t.Errorf("removed %+v", r)
	}
	w.want("", "")
	// A label does not reach into another namespace.
	b := w.blob("other", "b")
	w.blob("default", "root", "containerd.io/gc.root", "", "containerd.io/gc.ref.content", b.String())
	w.collect()
	if w.blobs("other") != "" {
		t.Errorf("other has %s", w.blobs("other"))
	}
}

// What no record names goes, unless unfinished work holds it.
func TestUnrecorded(t *testing.T) {
	w := fresh(t)
	w.file("left")
	held := w.file("held")
	w.tree("left")
	w.tree("held")
	w.must(os.WriteFile(w.d.Path("content", "blobs", "sha256", "no-digest"), nil, 0o600))
	w.must(os.MkdirAll(w.d.Path("snapshots", snapshot.Overlayfs, "no-id"), 0o700))
	l, err := lease.Take(w.d)
	w.must(err)
	w.must(l.Hold(ctx, nil, lease.Content, held.String()))
	w.must(l.Hold(ctx, nil, lease.Snapshot, string(id("held"))))
	if r := w.collect(); r != (gc.Removed{Files: 4, Bytes: int64(len("left"))}) {
		t.Errorf("removed %+v", r)
	}
	if w.files() != "held" || w.dirs() != "held" {
		t.Errorf("files %s, directories %s", w.files(), w.dirs())
	}
	if left := append(w.list(w.d.Path("trash")), w.list(w.d.Run("trash"))...); len(left) != 0 {
		t.Errorf("in the trash: %v", left)
	}
	w.must(l.Release())
	w.collect()
	w.want("", "")
}

// What a pull left unfinished is kept for a day, and longer while one works on it.
func TestIngests(t *testing.T) {
	w := fresh(t)
	made := map[string]digest.Digest{}
	for _, name := range []string{"young", "old", "leased"} {
		dg := digest.FromString(name)
		made[name] = dg
		i, err := content.Begin(ctx, w.d, nil, ocispec.Descriptor{Digest: dg, Size: 100})
		w.must(err)
		_, err = i.WriteAt([]byte("arrived"), 0)
		w.must(err)
		w.must(i.Close())
		age := 23 * time.Hour
		if name != "young" {
			age = 25 * time.Hour
		}
		when := time.Now().Add(-age)
		w.must(os.Chtimes(content.IngestPath(w.d, dg)+"/data", when, when))
	}
	l, err := lease.Take(w.d)
	w.must(err)
	defer l.Release()
	w.must(l.Hold(ctx, nil, lease.Content, made["leased"].String()))
	stray := w.d.Path("content", "ingest", "no digest")
	w.must(os.Mkdir(stray, 0o700))
	when := time.Now().Add(-25 * time.Hour)
	w.must(os.Chtimes(stray, when, when))
	if r := w.collect(); r != (gc.Removed{Files: 2, Bytes: int64(len("arrived"))}) {
		t.Errorf("removed %+v", r)
	}
	if _, err := os.Stat(stray); !os.IsNotExist(err) {
		t.Errorf("what has no digest: %v", err)
	}
	for name, dg := range made {
		if _, err := os.Stat(content.IngestPath(w.d, dg)); os.IsNotExist(err) != (name == "old") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A long chain goes from its top, so that at no event a snapshot stands on one that is gone.
func TestChildrenFirst(t *testing.T) {
	w := fresh(t)
	const n = 40
	parents, parent := map[string]string{}, ""
	for i := range n {
		for _, key := range []string{fmt.Sprintf("branch-%d", i), fmt.Sprintf("%d", i)} {
			w.layer("default", key, parent)
			parents[key] = parent
		}
		parent = fmt.Sprintf("%d", i)
	}
	w.update(func(tx *state.Tx) error {
		_, err := container.Create(tx, "default", container.Container{ID: "c", SnapshotKey: "2"}, &specs.Spec{})
		return err
	})
	since, err := w.d.Journal().Last()
	w.must(err)
	if r := w.collect(); r.Snapshots != 2*n-3 || r.Files != 2*n-3 {
		t.Errorf("removed %+v", r)
	}
	w.want("", "0 1 2")
	gone := map[string]bool{}
	for e, err := range w.d.Journal().Read(ctx, since, false) {
		w.must(err)
		if key := e.Field("key"); e.Topic == "/snapshot/remove" {
			if gone[parents[key]] {
				t.Errorf("%s went after its parent", key)
			}
			gone[key] = true
		}
	}
	if len(gone) != 2*n-3 {
		t.Errorf("%d events", len(gone))
	}
}

// A damaged record stops no collection: its namespace keeps all that the record may name, and is told of; others are
// collected.
func TestDamagedRecord(t *testing.T) {
	for _, bucket := range []string{"images", "containers", "content", "snapshots/overlayfs", "leases", "mounts"} {
		t.Run(strings.ReplaceAll(bucket, "/", " "), func(t *testing.T) {
			w := fresh(t)
			w.blob("other", "loose of other")
			w.layer("other", "layer of other", "")
			named, layer := w.blob("default", "named"), digest.FromString("layer").String()
			w.blob("default", "loose")
			w.layer("default", layer, "")
			w.layer("default", "loose", "")
			damage := func(text string) {
				w.update(func(tx *state.Tx) error {
					return state.Table[string]{Name: bucket}.Put(tx, "default", "x", text)
				})
			}
			damage("no record, and no name that is known: x loose")
			var told error
			collect := func() {
				t.Helper()
				_, err := gc.Run(ctx, w.d, gc.Options{Damaged: func(err error) { told = err }})
				w.must(err)
			}
			collect()
			if !errdefs.IsDataLoss(told) {
				t.Errorf("told %v", told)
			}
			if got := w.blobs("other") + w.keys("other"); got != "" {
				t.Errorf("other keeps %s", got)
			}
			dirs := []string{string(id(layer)), string(id("loose"))}
			if bucket == "snapshots/overlayfs" { // it may be of any directory
				dirs = append(dirs, string(id("layer of other")))
			}
			if got, want := w.files()+" "+w.dirs(), w.short([]string{"loose", "named"})+" "+w.short(dirs); got != want {
				t.Errorf("there is %s, want %s", got, want)
			}
			// With names in it, only those are kept.
			damage("the record of " + named.String() + " and " + layer + ", in " + string(id(layer)))
			collect()
			if got, want := w.files()+" "+w.dirs(), "named "+layer; got != want {
				t.Errorf("there is %s, want %s", got, want)
			}
		})
	}
}

// A record of which the end is missing keeps all of its namespace: what it named may stand in what is missing.
func TestTornRecord(t *testing.T) {
	for _, bucket := range []string{"images", "containers", "content", "snapshots/overlayfs", "leases", "mounts"} {
		t.Run(strings.ReplaceAll(bucket, "/", " "), func(t *testing.T) {
			w := fresh(t)
			named := w.blob("default", "named")
			w.blob("default", "loose")
			w.blob("other", "loose of other")
			w.layer("default", "layer", "")
			w.update(func(tx *state.Tx) error {
				return state.Table[string]{Name: bucket}.Put(tx, "default", "x", "")
			})
			w.tear(bucket, "default", "x", `{"labels":{"containerd.io/gc.ref.content.0":"`+named.String()+`","containerd.io/gc.ref.con`)
			var told error
			_, err := gc.Run(ctx, w.d, gc.Options{Damaged: func(err error) { told = err }})
			w.must(err)
			if !errdefs.IsDataLoss(told) {
				t.Errorf("told %v", told)
			}
			if got, want := w.files()+" "+w.dirs(), "loose named layer"; got != want {
				t.Errorf("there is %s, want %s", got, want)
			}
		})
	}
}

// A name is found in a damaged record as JSON writes it.
func TestDamagedRecordEscapes(t *testing.T) {
	w := fresh(t)
	const key = "a \"layer\" of <build> & test"
	w.layer("default", key, "")
	w.layer("default", "loose", "")
	named := w.blob("default", "named")
	w.update(func(tx *state.Tx) error {
		return state.Table[[]string]{Name: "containers"}.Put(tx, "default", "x", []string{key, named.String()})
	})
	w.collect()
	if got := w.dirs(); got != key {
		t.Errorf("there is %s", got)
	}
}

// Damage in what a collection does not follow stops none, and keeps nothing.
func TestDamagedOthers(t *testing.T) {
	for _, bucket := range []string{"sandboxes", "sandbox-names", "namespaces", "container-specs", "lease-resources"} {
		t.Run(bucket, func(t *testing.T) {
			w := fresh(t)
			w.blob("default", "loose")
			held, want := w.blob("default", "held"), ""
			ns, key := "default", "x"
			w.update(func(tx *state.Tx) error {
				if bucket == "lease-resources" {
					l, err := lease.Create(tx, ns, "l", nil)
					if err != nil {
						return err
					}
					ns, key = ns+"/"+l.UID, lease.ContentType+" "+held.String()
					want = "held"
				}
				return state.Table[string]{Name: bucket}.Put(tx, ns, key, "damaged")
			})
			w.tear(bucket, ns, key, "{")
			w.collect()
			if got := w.blobs("default"); got != want {
				t.Errorf("there is %q, want %q", got, want)
			}
		})
	}
}

// tear replaces the bytes of a record in meta.db.
func (w *world) tear(bucket, ns, key, text string) {
	w.Helper()
	db, err := bolt.Open(w.d.Path("meta.db"), 0o600, nil)
	w.must(err)
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucket)).Bucket([]byte(ns)).Put([]byte(key), []byte(text))
	})
	w.must(errors.Join(err, db.Close()))
}

// Parents in a circle stay, with their directories.
func TestCircle(t *testing.T) {
	w := fresh(t)
	for _, key := range []string{"a", "b", "c"} {
		w.layer("default", key, "")
	}
	w.update(func(tx *state.Tx) error {
		all := state.Table[snapshot.Info]{Name: "snapshots/" + snapshot.Overlayfs}
		for key, parent := range map[string]string{"a": "b", "b": "a", "c": "a"} {
			if err := all.Put(tx, "default", key, snapshot.Info{ID: id(key), Kind: snapshot.Committed, Parent: parent}); err != nil {
				return err
			}
		}
		return nil
	})
	w.collect()
	w.want("", "a b")
}

func (w *world) events() uint64 {
	w.Helper()
	n, err := w.d.Journal().Last()
	w.must(err)
	return n
}

// A collection waits for whoever is taking a reference, and says so when it may not.
func TestCollectLock(t *testing.T) {
	w := fresh(t)
	w.blob("default", "loose")
	l, err := w.d.Lock(ctx, nil, lock.Collect, "collect", lock.Shared)
	w.must(err)
	impatient, err := state.Open(state.Config{Root: w.d.Path(), State: w.d.Run()})
	w.must(err)
	if _, err := gc.Collect(ctx, impatient); !errdefs.IsAborted(err) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("got %v", err)
	}
	if w.blobs("default") != "loose" {
		t.Error("collected without the lock")
	}
	w.must(l.Release())
	_, err = gc.Collect(ctx, impatient)
	w.must(err)
	w.want("", "")
}

// What is removed is told.
func TestEvents(t *testing.T) {
	w := fresh(t)
	b := w.blob("default", "loose")
	w.layer("other", "layer", "")
	since := w.events()
	w.collect()
	var got []string
	for e, err := range w.d.Journal().Read(ctx, since, false) {
		w.must(err)
		got = append(got, e.Namespace+e.Topic+" "+e.Field("digest")+e.Field("key"))
	}
	slices.Sort(got)
	if want := []string{"default/content/delete " + b.String(), "other/snapshot/remove layer"}; !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}
