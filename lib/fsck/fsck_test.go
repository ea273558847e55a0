// SPDX-License-Identifier: Apache-2.0

package fsck_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	imagespecs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/fsck"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/verity"
)

var ctx = context.Background()

// whole is a healthy state directory: an image of two platforms, of which one is here, with its layers, a
// container and a transient one on top of them.
type whole struct {
	*testing.T
	d                                              *state.Dir
	layer, config, manifest, absent, inner, target ocispec.Descriptor
}

func fresh(t *testing.T) *whole {
	t.Helper()
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir(), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	w := &whole{T: t, d: d}
	w.layer = w.blob("layer")
	w.layer.MediaType = ocispec.MediaTypeImageLayer
	w.config = w.blob("config")
	w.config.MediaType = ocispec.MediaTypeImageConfig
	w.manifest = w.document(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: imagespecs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: w.config, Layers: []ocispec.Descriptor{w.layer}})
	w.absent = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6}
	w.inner = w.index(w.absent, w.manifest)
	w.target = w.index(w.inner)
	for _, key := range []string{"base", "top", "c", "t"} {
		w.must(snapshot.Overlay.Stage(context.Background(), d, id(key), ""))
	}
	w.update(func(tx *state.Tx) error {
		err := errors.Join(
			image.Put(tx, "default", image.Image{Name: "web", Target: w.target}),
			snapshot.Overlay.PutLayer(tx, "default", snapshot.Info{Key: "base", ID: id("base")}),
			snapshot.Overlay.PutLayer(tx, "default", snapshot.Info{Key: "top", ID: id("top"), Parent: "base"}),
			made(tx, "c"),
		)
		_, err2 := snapshot.Overlay.Prepare(tx, "default", "c", "top", id("c"), nil)
		return errors.Join(err, err2)
	})
	w.run(func(tx *state.Tx) error {
		_, err := snapshot.Overlay.Prepare(tx, "default", "t", "top", id("t"), nil)
		return errors.Join(err, made(tx, "t"))
	})
	c, err := task.Open(context.Background(), d, "default", "c")
	w.must(err)
	w.must(os.MkdirAll(d.Run("tasks/default/c"), 0o700))
	w.must(os.MkdirAll(c.Log(), 0o700))
	return w
}

// made records a container on the snapshot of its name.
func made(tx *state.Tx, name string) error {
	_, err := container.Create(tx, "default", container.Container{ID: name, SnapshotKey: name}, &specs.Spec{})
	return err
}

func id(key string) snapshot.ID { return snapshot.LayerID(digest.FromString(key)) }

func (w *whole) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *whole) update(fn func(*state.Tx) error) { w.Helper(); w.must(w.d.Update(ctx, nil, fn)) }
func (w *whole) run(fn func(*state.Tx) error)    { w.Helper(); w.must(w.d.UpdateRun(ctx, nil, fn)) }

func (w *whole) blob(data string) ocispec.Descriptor {
	w.Helper()
	desc := ocispec.Descriptor{Digest: digest.FromString(data), Size: int64(len(data))}
	w.must(os.MkdirAll(filepath.Dir(content.Path(w.d, desc.Digest)), 0o700))
	w.must(os.WriteFile(content.Path(w.d, desc.Digest), []byte(data), 0o600))
	w.update(func(tx *state.Tx) error {
		return content.Put(tx, "default", content.Blob{Digest: desc.Digest, Size: desc.Size})
	})
	return desc
}

func (w *whole) document(mediaType string, v any) ocispec.Descriptor {
	w.Helper()
	data, err := json.Marshal(v)
	w.must(err)
	desc := w.blob(string(data))
	desc.MediaType = mediaType
	return desc
}

func (w *whole) index(manifests ...ocispec.Descriptor) ocispec.Descriptor {
	w.Helper()
	return w.document(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: imagespecs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests})
}

func (w *whole) remove(d ocispec.Descriptor) {
	w.Helper()
	w.update(func(tx *state.Tx) error { return content.Remove(tx, "default", d.Digest) })
	w.must(os.Remove(content.Path(w.d, d.Digest)))
}

// put writes a record as no package would. The value is kept whole, as the table's type knows no field.
func put[T any](w *whole, durable bool, table, key string, v T) {
	w.Helper()
	fn := func(tx *state.Tx) error { return state.Table[T]{Name: table}.Put(tx, "default", key, v) }
	if durable {
		w.update(fn)
	} else {
		w.run(fn)
	}
}

func (w *whole) drop(durable bool, table, key string) {
	w.Helper()
	fn := func(tx *state.Tx) error { return state.Table[struct{}]{Name: table}.Delete(tx, "default", key) }
	if durable {
		w.update(fn)
	} else {
		w.run(fn)
	}
}

// check gives "severity kind namespace name" of each finding, sorted.
func (w *whole) check(o fsck.Options) (list []string, all []fsck.Finding) {
	w.Helper()
	all, err := fsck.Check(ctx, w.d, o)
	w.must(err)
	for _, f := range all {
		list = append(list, fmt.Sprintf("%s %s %s %s", f.Severity, f.Kind, f.Namespace, f.Name))
		if f.Text == "" || strings.Contains(f.Text, "%!") || strings.Contains(f.Text, "<nil>") {
			w.Errorf("text of %+v", f)
		}
	}
	slices.Sort(list)
	return list, all
}

func TestHealthy(t *testing.T) {
	w := fresh(t)
	for _, deep := range []bool{false, true} {
		if list, all := w.check(fsck.Options{Deep: deep}); len(all) != 0 || fsck.Whole(all) != nil {
			t.Errorf("deep %v: %v", deep, list)
		}
	}
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir()})
	w.must(err)
	if all, err := fsck.Check(ctx, d, fsck.Options{}); err != nil || len(all) != 0 {
		t.Errorf("an empty directory: %v, %v", all, err)
	}
}

// Each invariant that is broken by hand is found, under the name of what it belongs to.
func TestBroken(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(w *whole)
		want   func(w *whole) []string
	}{
		"blob without file": {
			func(w *whole) { w.must(os.Remove(content.Path(w.d, w.layer.Digest))) },
			func(w *whole) []string { return []string{"content default " + w.layer.Digest.String()} },
		},
		"blob of another size": {
			func(w *whole) { w.must(os.Truncate(content.Path(w.d, w.layer.Digest), 2)) },
			func(w *whole) []string { return []string{"content default " + w.layer.Digest.String()} },
		},
		"blob record damaged": {
			func(w *whole) { put(w, true, "content", w.layer.Digest.String(), "no record") },
			func(w *whole) []string {
				return []string{"content default " + w.layer.Digest.String(), "image default web"}
			},
		},
		"blob record with a key that is no digest": {
			func(w *whole) { put(w, true, "content", "../x", content.Blob{Size: 1}) },
			func(w *whole) []string { return []string{"content default ../x"} },
		},
		"image without target": {
			func(w *whole) { w.remove(w.target) },
			func(w *whole) []string { return []string{"image default web"} },
		},
		"image of another size": {
			func(w *whole) {
				wrong := w.target
				wrong.Size++
				put(w, true, "images", "web", image.Image{Name: "web", Target: wrong})
			},
			func(w *whole) []string { return []string{"image default web"} },
		},
		"image without its inner index": {
			func(w *whole) { w.remove(w.inner) },
			func(w *whole) []string { return []string{"image default web"} },
		},
		"image without any manifest": {
			func(w *whole) { w.remove(w.manifest) },
			func(w *whole) []string { return []string{"image default web"} },
		},
		"image without configuration": {
			func(w *whole) { w.remove(w.config) },
			func(w *whole) []string { return []string{"image default web"} },
		},
		"image without layer": {
			func(w *whole) { w.remove(w.layer) },
			func(w *whole) []string { return []string{"image default web"} },
		},
		"image record damaged": {
			func(w *whole) { put(w, true, "images", "web", "no record") },
			func(w *whole) []string { return []string{"image default web"} },
		},
		"snapshot without directory": {
			func(w *whole) { w.must(os.RemoveAll(snapshot.Overlay.Path(w.d, id("base")))) },
			func(w *whole) []string { return []string{"snapshot default base"} },
		},
		"snapshot without tree": {
			func(w *whole) {
				w.must(os.Remove(snapshot.Overlay.FS(w.d, id("t"))))
				w.must(os.WriteFile(snapshot.Overlay.FS(w.d, id("t")), nil, 0o600))
			},
			func(w *whole) []string { return []string{"snapshot default t"} },
		},
		"snapshot without parent": {
			func(w *whole) {
				w.drop(true, "snapshots/overlayfs", "base")
				w.must(os.RemoveAll(snapshot.Overlay.Path(w.d, id("base"))))
			},
			func(w *whole) []string { return []string{"snapshot default top"} },
		},
		"snapshot on an active one": {
			func(w *whole) {
				put(w, true, "snapshots/overlayfs", "top", snapshot.Info{ID: id("top"), Kind: snapshot.Committed, Parent: "c"})
			},
			func(w *whole) []string { return []string{"snapshot default top"} },
		},
		"snapshot record damaged": {
			func(w *whole) {
				put(w, false, "snapshots/overlayfs", "t", "no record")
				w.must(os.RemoveAll(snapshot.Overlay.Path(w.d, id("t"))))
			},
			func(w *whole) []string { return []string{"container default t", "snapshot default t"} },
		},
		"container without snapshot": {
			func(w *whole) {
				w.drop(false, "snapshots/overlayfs", "t")
				w.must(os.RemoveAll(snapshot.Overlay.Path(w.d, id("t"))))
			},
			func(w *whole) []string { return []string{"container default t"} },
		},
		"container without spec": {
			func(w *whole) { w.drop(true, "container-specs", "c") },
			func(w *whole) []string { return []string{"container default c"} },
		},
		"container with damaged spec": {
			func(w *whole) { put(w, false, "container-specs", "t", []byte("no spec")) },
			func(w *whole) []string { return []string{"container default t"} },
		},
		"container record damaged": {
			func(w *whole) { put(w, false, "containers", "t", "no record") },
			func(w *whole) []string { return []string{"container default t"} },
		},
		"sandbox record damaged": {
			func(w *whole) { put(w, true, "sandboxes", "pod", "no record") },
			func(w *whole) []string { return []string{"sandbox default pod"} },
		},
		"sandbox with damaged name": {
			func(w *whole) {
				w.update(func(tx *state.Tx) error {
					_, err := sandbox.Create(tx, "default", sandbox.Sandbox{ID: "pod", Name: "called"})
					return err
				})
				put(w, true, "sandbox-names", "called", 7)
			},
			func(w *whole) []string { return []string{"sandbox default pod"} },
		},
		"sandbox with the name of another": {
			func(w *whole) {
				w.update(func(tx *state.Tx) error {
					_, err1 := sandbox.Create(tx, "default", sandbox.Sandbox{ID: "other"})
					_, err2 := sandbox.Create(tx, "default", sandbox.Sandbox{ID: "pod", Name: "called"})
					return errors.Join(err1, err2)
				})
				put(w, true, "sandbox-names", "called", "other")
			},
			func(w *whole) []string { return []string{"sandbox default pod"} },
		},
		"mount record damaged": {
			func(w *whole) { put(w, false, "mounts", "m", "no record") },
			func(w *whole) []string { return []string{"mounts default m"} },
		},
		"container in both databases": {
			func(w *whole) { put(w, false, "containers", "c", container.Container{}) },
			func(w *whole) []string { return []string{"container default c"} },
		},
		"snapshot in both databases": {
			func(w *whole) {
				put(w, false, "snapshots/overlayfs", "base", snapshot.Info{ID: id("base"), Kind: snapshot.Committed})
			},
			func(w *whole) []string { return []string{"snapshot default base"} },
		},
		"blob in both databases": {
			func(w *whole) { put(w, false, "content", w.layer.Digest.String(), content.Blob{Size: w.layer.Size}) },
			func(w *whole) []string { return []string{"content default " + w.layer.Digest.String()} },
		},
		"image in both databases": {
			func(w *whole) { put(w, false, "images", "web", image.Image{Target: w.target}) },
			func(w *whole) []string { return []string{"image default web"} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := fresh(t)
			c.damage(w)
			want := c.want(w)
			for i := range want {
				want[i] = "broken " + want[i]
			}
			list, all := w.check(fsck.Options{})
			if !slices.Equal(list, want) {
				t.Errorf("found %v, want %v", list, want)
			}
			if err := fsck.Whole(all); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), fmt.Sprintf("%d broken", len(want))) {
				t.Errorf("whole: %v", err)
			}
		})
	}
}

// A byte that has turned shows when everything is read, and not otherwise.
func TestDeep(t *testing.T) {
	w := fresh(t)
	w.must(os.WriteFile(content.Path(w.d, w.layer.Digest), []byte("lAyer"), 0o600))
	if list, _ := w.check(fsck.Options{}); len(list) != 0 {
		t.Errorf("found %v", list)
	}
	want := []string{"broken content default " + w.layer.Digest.String()}
	if list, _ := w.check(fsck.Options{Deep: true}); !slices.Equal(list, want) {
		t.Errorf("found %v, want %v", list, want)
	}
}

// A layer that is a file is told when it has not the fs-verity that was recorded. Without any it is broken only when everything is
// read and its contents are others, or when a use has found that.
func TestVerity(t *testing.T) {
	w := fresh(t)
	if err := snapshot.Erofs.Ready(w.d); err != nil {
		t.Skip(err)
	}
	w.must(snapshot.Erofs.Stage(ctx, w.d, id("file"), ""))
	made, err := snapshot.Erofs.Fix(ctx, w.d, id("file"), id("file"))
	w.must(err)
	w.d.EmptyTrash()
	f, err := os.Open(snapshot.Erofs.Path(w.d, id("file"), "layer.erofs"))
	w.must(err)
	defer f.Close()
	right, err := verity.Digest(ctx, f)
	w.must(err)
	lost := made.Verity == ""
	for _, c := range []struct {
		recorded digest.Digest
		used     bool
		severity fsck.Severity // when all is read
		text     string
	}{
		{"", false, "", ""},
		{right, false, fsck.Unprotected, "its contents are right"},
		{digest.FromString("other"), false, fsck.Broken, "was changed"},
		{right, true, fsck.Unprotected, "its contents are right"},
		{digest.FromString("other"), true, fsck.Broken, "pull the image again"},
	} {
		s := snapshot.Info{ID: id("file"), Kind: snapshot.Committed, Verity: c.recorded}
		put(w, true, "snapshots/erofs", "file", s)
		severity, text := fsck.Unprotected, "its next use compares"
		if c.used {
			if err := snapshot.Erofs.Attest(ctx, w.d, s); (err != nil) != (c.severity == fsck.Broken) {
				t.Errorf("recorded as %q: %v", c.recorded, err)
			}
			severity, text = c.severity, c.text
			if severity == fsck.Unprotected {
				text = "its contents were right at "
			}
		}
		for _, deep := range []bool{false, true} {
			if deep || !lost {
				severity, text = c.severity, c.text
			}
			if c.recorded == "" || !lost && c.recorded == right {
				severity = ""
			}
			_, all := w.check(fsck.Options{Deep: deep})
			if severity == "" && len(all) > 0 || severity != "" && (len(all) != 1 || all[0].Severity != severity || !strings.Contains(all[0].Text, text)) {
				t.Errorf("recorded as %q, deep %v, used %v: %v", c.recorded, deep, c.used, all)
			}
			if err := fsck.Whole(all); (err != nil) != (severity == fsck.Broken) {
				t.Error(err)
			}
		}
	}
}

// What no record names is told, and breaks nothing.
func TestGarbage(t *testing.T) {
	w := fresh(t)
	blob := content.Path(w.d, digest.FromString("left"))
	w.must(os.WriteFile(blob, []byte("left"), 0o600))
	stray := w.d.Path("content", "blobs", "sha256", "no digest")
	w.must(os.WriteFile(stray, nil, 0o600))
	w.must(snapshot.Overlay.Stage(context.Background(), w.d, id("left"), ""))
	w.must(os.MkdirAll(w.d.Run("tasks/default/gone"), 0o700))
	w.must(os.MkdirAll(w.d.Run("tasks/other/c"), 0o700))
	w.must(os.MkdirAll(w.d.Path("containers", "default", "gone"), 0o700))
	for _, path := range []string{w.d.Path("trashed"), w.d.Run("trashed")} {
		w.must(os.WriteFile(path, nil, 0o600))
		w.must(w.d.Trash(path))
	}
	want := []string{
		"garbage container default gone", "garbage content  " + blob, "garbage content  " + stray, "garbage snapshot  " + string(id("left")),
		"garbage task default gone", "garbage task other c", "garbage trash  " + w.d.Path("trash"), "garbage trash  " + w.d.Run("trash"),
	}
	slices.Sort(want)
	list, all := w.check(fsck.Options{})
	if !slices.Equal(list, want) {
		t.Errorf("found %q\nwant  %q", list, want)
	}
	if err := fsck.Whole(all); err != nil {
		t.Errorf("garbage breaks: %v", err)
	}
}

// A database that cannot be read is one finding, and nothing is called garbage for it.
func TestDamagedDatabase(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"empty":     func(p string) error { return os.Truncate(p, 0) },
		"truncated": func(p string) error { return os.Truncate(p, 3*4096) },
		"pages": func(p string) error {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			for i := 2 * 4096; i < len(data); i++ {
				data[i] = 0xff
			}
			return os.WriteFile(p, data, 0o600)
		},
	} {
		for _, db := range []string{"meta.db", "run.db"} {
			t.Run(name+" "+db, func(t *testing.T) {
				w := fresh(t)
				path := w.d.Path(db)
				if db == "run.db" {
					path = w.d.Run(db)
				}
				w.must(damage(path))
				d, err := state.Open(state.Config{Root: w.d.Path(), State: w.d.Run()}) // one that has read nothing
				w.must(err)
				all, err := fsck.Check(ctx, d, fsck.Options{})
				w.must(err)
				if len(all) != 1 || all[0].Severity != fsck.Broken || all[0].Kind != "database" || all[0].Name != path && all[0].Name != w.d.Path() {
					t.Errorf("found %+v", all)
				}
				if !errdefs.IsDataLoss(fsck.Whole(all)) {
					t.Errorf("whole: %v", fsck.Whole(all))
				}
			})
		}
	}
}

func TestCancelled(t *testing.T) {
	w := fresh(t)
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := fsck.Check(ctx, w.d, fsck.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// looks counts how often it is asked whether it has ended, and has after so many times.
type looks struct {
	context.Context
	n, end int
}

func (l *looks) Err() error {
	if l.n++; l.n > l.end {
		return context.Canceled
	}
	return nil
}

// Each record, document, file and part of a blob is a place to end at, and one that has ended tells nothing.
func TestCancelledAnywhere(t *testing.T) {
	w := fresh(t)
	target := w.target
	for range 50 {
		target = w.index(target)
	}
	w.update(func(tx *state.Tx) error { return image.Put(tx, "default", image.Image{Name: "deep", Target: target}) })
	w.blob(strings.Repeat("x", 1<<20))
	all := &looks{Context: ctx, end: 1 << 30}
	found, err := fsck.Check(all, w.d, fsck.Options{Deep: true})
	if err != nil || len(found) != 0 || all.n < 3*50+1<<20/(32<<10) {
		t.Fatalf("%d looks, found %v, %v", all.n, found, err)
	}
	for end := 0; end < all.n; end += 7 {
		if found, err := fsck.Check(&looks{Context: ctx, end: end}, w.d, fsck.Options{Deep: true}); !errors.Is(err, context.Canceled) || len(found) != 0 {
			t.Errorf("ended after %d looks: %v, %v", end, found, err)
		}
	}
}

// Indexes that list one document many times, level by level, have its fault once.
func TestManyEntries(t *testing.T) {
	w := fresh(t)
	target := w.target
	for range 3 {
		target = w.index(slices.Repeat([]ocispec.Descriptor{target}, 20)...)
	}
	w.update(func(tx *state.Tx) error { return image.Put(tx, "default", image.Image{Name: "web", Target: target}) })
	w.remove(w.layer)
	_, all := w.check(fsck.Options{})
	if len(all) != 1 || strings.Count(all[0].Text, w.layer.Digest.String()) != 1 {
		t.Errorf("found %d: %.1000v", len(all), all)
	}
}

// An image with many faults is one finding of bounded length.
func TestManyFaults(t *testing.T) {
	w := fresh(t)
	var list []ocispec.Descriptor
	for i := range 50 {
		layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(fmt.Sprint(i)), Size: 1}
		list = append(list, w.document(ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: w.config, Layers: []ocispec.Descriptor{layer}}))
	}
	target := w.index(list...)
	w.update(func(tx *state.Tx) error { return image.Put(tx, "default", image.Image{Name: "web", Target: target}) })
	_, all := w.check(fsck.Options{})
	if len(all) != 1 || strings.Count(all[0].Text, "refers to") != 8 || !strings.Contains(all[0].Text, "more") {
		t.Errorf("found %d: %.1000v", len(all), all)
	}
}
