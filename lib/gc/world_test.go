// SPDX-License-Identifier: Apache-2.0

package gc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespecs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/fsck"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

var ctx = context.Background()

func open(dir string) (*state.Dir, error) {
	return state.Open(state.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "run"), Wait: -1})
}

// world is a state directory whose blobs and snapshots are known by short names.
type world struct {
	*testing.T
	dir   string
	d     *state.Dir
	names map[string]string // of digests and ids
}

func fresh(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	d, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t, dir, d, map[string]string{}}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) update(fn func(*state.Tx) error) { w.Helper(); w.must(w.d.Update(ctx, nil, fn)) }
func (w *world) run(fn func(*state.Tx) error)    { w.Helper(); w.must(w.d.UpdateRun(ctx, nil, fn)) }

// file puts a blob in place without a record.
func (w *world) file(data string) digest.Digest {
	w.Helper()
	dg := digest.FromString(data)
	if name, _, _ := strings.Cut(data, "{"); name != "" {
		w.names[dg.Encoded()] = name
	}
	w.must(os.MkdirAll(filepath.Dir(content.Path(w.d, dg)), 0o700))
	w.must(os.WriteFile(content.Path(w.d, dg), []byte(data), 0o444))
	return dg
}

// blob puts a blob in place and records it. Pairs are labels.
func (w *world) blob(ns, data string, pairs ...string) digest.Digest {
	w.Helper()
	dg := w.file(data)
	w.update(func(tx *state.Tx) error {
		return content.Put(tx, ns, content.Blob{Digest: dg, Size: int64(len(data)), Labels: labels(pairs...)})
	})
	return dg
}

func labels(pairs ...string) map[string]string {
	m := map[string]string{}
	for p := range slices.Chunk(pairs, 2) {
		m[p[0]] = p[1]
	}
	return m
}

func id(key string) snapshot.ID { return snapshot.LayerID(digest.FromString(key)) }

// tree makes the directory of a snapshot without a record.
func (w *world) tree(key string) snapshot.ID {
	w.Helper()
	w.names[string(id(key))] = key
	w.must(snapshot.Overlay.Stage(context.Background(), w.d, id(key), ""))
	w.must(os.WriteFile(filepath.Join(snapshot.Overlay.FS(w.d, id(key)), "file"), []byte(key), 0o600))
	return id(key)
}

// layer makes a committed snapshot.
func (w *world) layer(ns, key, parent string, pairs ...string) {
	w.Helper()
	s := snapshot.Info{Key: key, ID: w.tree(key), Parent: parent, Labels: labels(pairs...)}
	w.update(func(tx *state.Tx) error { return snapshot.Overlay.PutLayer(tx, ns, s) })
}

// image makes an image with one manifest, whose layers are also snapshots on top of each other.
func (w *world) image(ns, name string, layers ...string) digest.Digest {
	w.Helper()
	m := w.manifest(ns, name, layers...)
	w.name(ns, name, m)
	return m.Digest
}

func (w *world) name(ns, name string, target ocispec.Descriptor, pairs ...string) {
	w.Helper()
	w.update(func(tx *state.Tx) error {
		return image.Put(tx, ns, image.Image{Name: name, Target: target, Labels: labels(pairs...)})
	})
}

func (w *world) unname(ns, name string) {
	w.Helper()
	w.update(func(tx *state.Tx) error { return image.Remove(tx, ns, name) })
}

func (w *world) manifest(ns, name string, layers ...string) ocispec.Descriptor {
	w.Helper()
	parent := ""
	m := ocispec.Manifest{Versioned: specsVersion, MediaType: ocispec.MediaTypeImageManifest}
	refs := []string{}
	for n, l := range layers {
		dg := w.blob(ns, l)
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: dg, Size: int64(len(l))})
		refs = append(refs, fmt.Sprintf("containerd.io/gc.ref.content.l.%d", n), dg.String())
		key := l
		if parent != "" {
			key = parent + "+" + l
		}
		w.layer(ns, key, parent)
		parent = key
	}
	config := name + "-config"
	var pairs []string
	if parent != "" {
		pairs = []string{"containerd.io/gc.ref.snapshot.overlayfs", parent}
	}
	dg := w.blob(ns, config, pairs...)
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: dg, Size: int64(len(config))}
	refs = append(refs, "containerd.io/gc.ref.content.config", dg.String())
	return w.document(ns, name+"-manifest", ocispec.MediaTypeImageManifest, m, refs...)
}

var specsVersion = imagespecs.Versioned{SchemaVersion: 2}

func (w *world) index(ns, name string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	w.Helper()
	var refs []string
	for n, m := range manifests {
		refs = append(refs, fmt.Sprintf("containerd.io/gc.ref.content.m.%d", n), m.Digest.String())
	}
	x := ocispec.Index{Versioned: specsVersion, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests}
	return w.document(ns, name, ocispec.MediaTypeImageIndex, x, refs...)
}

func (w *world) document(ns, name, mediaType string, v any, refs ...string) ocispec.Descriptor {
	w.Helper()
	data, err := json.Marshal(v)
	w.must(err)
	dg := w.blob(ns, string(data), refs...)
	w.names[dg.Encoded()] = name
	return ocispec.Descriptor{MediaType: mediaType, Digest: dg, Size: int64(len(data))}
}

// container makes a container with an active snapshot of its name, in meta.db or in run.db.
func (w *world) container(durable bool, ns, name, parent string) {
	w.Helper()
	update := w.run
	if durable {
		update = w.update
	}
	w.tree(name)
	update(func(tx *state.Tx) error {
		if _, err := snapshot.Overlay.Prepare(tx, ns, name, parent, id(name), nil); err != nil {
			return err
		}
		_, err := container.Create(tx, ns, container.Container{ID: name, SnapshotKey: name}, &specs.Spec{})
		return err
	})
}

func (w *world) collect() gc.Removed {
	w.Helper()
	r, err := gc.Collect(ctx, w.d)
	w.must(err)
	return r
}

// short gives the sorted short names of what it is given.
func (w *world) short(all []string) string {
	for i, s := range all {
		if name, ok := w.names[s]; ok {
			all[i] = name
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// blobs lists the recorded blobs of a namespace, keys its snapshots.
func (w *world) blobs(ns string) string {
	w.Helper()
	var all []string
	w.must(w.d.View(ctx, func(tx *state.Tx) error {
		for b, err := range content.All(tx, ns) {
			if err != nil {
				return err
			}
			all = append(all, b.Digest.Encoded())
		}
		return nil
	}))
	return w.short(all)
}

func (w *world) keys(ns string) string {
	w.Helper()
	var all []string
	w.must(w.d.View(ctx, func(tx *state.Tx) error {
		for s, err := range snapshot.All(tx, ns) {
			if err != nil {
				return err
			}
			all = append(all, s.Key)
		}
		return nil
	}))
	return w.short(all)
}

// files lists the blob files, dirs the directories of snapshots.
func (w *world) files() string {
	w.Helper()
	return w.short(w.list(w.d.Path("content", "blobs", "sha256")))
}

func (w *world) dirs() string {
	w.Helper()
	return w.short(w.list(w.d.Path("snapshots", snapshot.Overlayfs)))
}

func (w *world) list(dir string) (all []string) {
	w.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		w.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// want checks what there is of the namespace default and on the disk, and that it is whole.
func (w *world) want(blobs, snapshots string) {
	w.Helper()
	for _, c := range []struct{ what, got, want string }{
		{"blobs", w.blobs("default"), blobs}, {"files", w.files(), blobs},
		{"snapshots", w.keys("default"), snapshots}, {"directories", w.dirs(), snapshots},
	} {
		if c.got != c.want {
			w.Errorf("%s: %s\nwant %s", c.what, c.got, c.want)
		}
	}
	w.whole()
}

// whole checks that nothing is broken and that there is no garbage.
func (w *world) whole() {
	w.Helper()
	found, err := fsck.Check(ctx, w.d, fsck.Options{Deep: true})
	w.must(err)
	for _, f := range found {
		w.Errorf("fsck: %+v", f)
	}
}
