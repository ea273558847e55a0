// SPDX-License-Identifier: Apache-2.0

package gc_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

func (w *world) lease(id string, resources []lease.Resource, pairs ...string) {
	w.Helper()
	w.update(func(tx *state.Tx) error {
		if _, err := lease.Create(tx, "default", id, labels(pairs...)); err != nil {
			return err
		}
		for _, r := range resources {
			if err := lease.Add(tx, "default", id, r); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *world) unlease(id string) {
	w.Helper()
	w.update(func(tx *state.Tx) error { return lease.Remove(tx, "default", id) })
}

func (w *world) leases() string {
	w.Helper()
	var all []string
	w.must(w.d.View(ctx, func(tx *state.Tx) error {
		for l, err := range lease.All(tx, "default") {
			if err != nil {
				return err
			}
			all = append(all, l.ID)
		}
		return nil
	}))
	return strings.Join(all, " ")
}

func blobRes(dg digest.Digest) lease.Resource {
	return lease.Resource{Type: lease.ContentType, ID: dg.String()}
}
func layerRes(key string) lease.Resource {
	return lease.Resource{Type: lease.SnapshotType("overlayfs"), ID: key}
}

func in(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }

// A lease record keeps its resources with what they refer to, until it is removed or expires. A flat one keeps only the
// resources, and the parents of snapshots.
func TestLeaseRecords(t *testing.T) {
	w := fresh(t)
	m := w.image("default", "web", "base", "nginx")
	w.unname("default", "web")
	w.lease("l", []lease.Resource{blobRes(m)}, lease.LabelExpire, in(time.Hour))
	w.collect()
	w.want("base nginx web-config web-manifest", "base base+nginx")
	w.lease("flat", []lease.Resource{blobRes(m), layerRes("base+nginx")}, lease.LabelFlat, "")
	w.unlease("l")
	w.collect()
	if got := w.blobs("default") + ", " + w.keys("default"); got != "web-manifest, base base+nginx" {
		t.Errorf("a flat lease keeps %s", got)
	}
	w.unlease("flat")
	w.lease("over", []lease.Resource{blobRes(m)}, lease.LabelExpire, in(-time.Second))
	w.lease("wrong", nil, lease.LabelExpire, "tomorrow")
	if r := w.collect(); r.Leases != 1 || r.Blobs != 1 || r.Snapshots != 2 {
		t.Errorf("removed %+v", r)
	}
	w.want("", "")
	if got := w.leases(); got != "wrong" {
		t.Errorf("leases %s", got)
	}
}

// An image that has expired goes, unless something refers to it; a flat lease on one keeps its target alone.
func TestExpiredImages(t *testing.T) {
	w := fresh(t)
	past := []string{lease.LabelExpire, in(-time.Minute)}
	for _, name := range []string{"gone", "leased", "referred", "flat"} {
		w.name("default", name, w.manifest("default", name, name+"-layer"), past...)
	}
	w.name("default", "young", w.manifest("default", "young", "young-layer"), lease.LabelExpire, in(time.Hour))
	w.lease("l", []lease.Resource{{Type: lease.ImageType, ID: "leased"}})
	w.lease("f", []lease.Resource{{Type: lease.ImageType, ID: "flat"}}, lease.LabelFlat, "1")
	w.blob("default", "root", "containerd.io/gc.root", "", "containerd.io/gc.ref.image", "referred")
	if r := w.collect(); r.Images != 1 {
		t.Errorf("removed %+v", r)
	}
	want := "flat-manifest leased-config leased-layer leased-manifest referred-config referred-layer referred-manifest root young-config young-layer young-manifest"
	if got := w.blobs("default"); got != want {
		t.Errorf("blobs %s\nwant  %s", got, want)
	}
	w.must(w.d.View(ctx, func(tx *state.Tx) error {
		if _, err := image.Get(tx, "default", "gone"); !errdefs.IsNotFound(err) {
			t.Errorf("gone: %v", err)
		}
		return nil
	}))
}

// Back references and conditions keep what has them for as long as the other is there.
func TestBackReferences(t *testing.T) {
	w := fresh(t)
	m := w.image("default", "web", "base")
	w.container(true, "default", "c", "base")
	w.blob("default", "of-image", "containerd.io/gc.bref.image/x", "web")
	w.blob("default", "of-content", "containerd.io/gc.bref.content.x", m.String())
	w.blob("default", "of-container", "containerd.io/gc.bref.container", "c")
	w.blob("default", "of-layer", "containerd.io/gc.bref.snapshot.overlayfs", "base")
	w.blob("default", "of-none", "containerd.io/gc.bref.image", "none")
	w.layer("default", "used", "", "containerd.io/gc.root", "", "containerd.io/gc.cond.value-usedat", in(-time.Hour))
	w.blob("default", "cond-yes", "containerd.io/gc.cond.snapshot.overlayfs", "usedat<24h|used")
	w.blob("default", "cond-no", "containerd.io/gc.cond.snapshot.overlayfs", "usedat<1m|used")
	w.collect()
	want := "base cond-yes of-container of-content of-image of-layer web-config web-manifest"
	if got := w.blobs("default"); got != want {
		t.Errorf("blobs %s\nwant  %s", got, want)
	}
	w.unname("default", "web")
	w.collect()
	if got := w.blobs("default"); got != "cond-yes of-container of-layer" {
		t.Errorf("blobs %s", got)
	}
}

func (w *world) writer(ns string, o content.WriterOptions, text string, age time.Duration) *content.Writer {
	w.Helper()
	wr, err := content.OpenWriter(ctx, w.d, ns, o)
	w.must(err)
	if text != "" {
		_, err = wr.Write([]byte(text))
		w.must(err)
	}
	if age > 0 {
		w.age(o.Ref, age)
	}
	return wr
}

// age lets the ingest of a ref have been written some time ago.
func (w *world) age(ref string, age time.Duration) {
	w.Helper()
	when := time.Now().Add(-age)
	for r, err := range content.RefIngests(w.d) {
		w.must(err)
		if r.Ref == ref {
			w.must(os.Chtimes(r.Path+"/data", when, when))
		}
	}
}

func (w *world) refs() string {
	w.Helper()
	var all []string
	for r, err := range content.RefIngests(w.d) {
		w.must(err)
		all = append(all, r.Ref)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// The ingest of a ref goes a day after it was written, or with its lease; never while a writer has it open.
func TestRefIngests(t *testing.T) {
	w := fresh(t)
	w.lease("l", nil)
	for _, o := range []content.WriterOptions{{Ref: "old"}, {Ref: "leased-old", Lease: "l"}} {
		w.must(w.writer("default", o, "bytes", 0).Close())
		wr := w.writer("default", o, "", 25*time.Hour)
		w.must(wr.Close())
	}
	w.must(w.writer("default", content.WriterOptions{Ref: "young"}, "bytes", 0).Close())
	w.must(w.writer("other", content.WriterOptions{Ref: "also"}, "bytes", 23*time.Hour).Close())
	open := w.writer("default", content.WriterOptions{Ref: "open"}, "bytes", 25*time.Hour)
	w.must(os.MkdirAll(w.d.Path("content", "ingest", "ref-"+strings.Repeat("0", 64)), 0o700))
	if r := w.collect(); r.Files != 2 || r.Bytes != 5 {
		t.Errorf("removed %+v", r)
	}
	if got := w.refs(); got != "also leased-old open young" {
		t.Errorf("refs %s", got)
	}
	w.must(open.Close())
	w.age("open", 25*time.Hour)
	w.age("also", 23*time.Hour)
	w.unlease("l")
	w.collect()
	if got := w.refs(); got != "also young" {
		t.Errorf("refs %s", got)
	}
}

// An ingest keeps the bytes that it shares with another namespace, also when that has lost them.
func TestSharedIngest(t *testing.T) {
	w := fresh(t)
	dg := w.blob("other", "shared")
	wr := w.writer("default", content.WriterOptions{Ref: "r", Digest: dg}, "", 0)
	w.collect()
	if w.blobs("other") != "" || w.files() != "shared" {
		t.Errorf("other has %s, files %s", w.blobs("other"), w.files())
	}
	_, err := wr.Commit(ctx, 0, dg, map[string]string{"containerd.io/gc.root": "1"})
	w.must(err)
	w.collect()
	w.want("shared", "")
}

// A dry run tells what a collection removes, and removes nothing.
func TestDryRun(t *testing.T) {
	w := fresh(t)
	w.image("default", "web", "base", "nginx")
	w.unname("default", "web")
	w.lease("over", nil, lease.LabelExpire, in(-time.Second))
	w.tree("stray")
	run := func(dry bool) (items []string, r gc.Removed) {
		r, err := gc.Run(ctx, w.d, gc.Options{DryRun: dry, Each: func(i gc.Item) {
			items = append(items, i.Kind+" "+i.Namespace+" "+filepath.Base(i.Name))
		}})
		w.must(err)
		slices.Sort(items)
		return items, r
	}
	since := w.events()
	would, r := run(true)
	if w.events() != since || w.files() == "" || r.Blobs != 4 || r.Snapshots != 2 || r.Leases != 1 || r.Files != 7 {
		t.Errorf("it would remove %+v", r)
	}
	did, r2 := run(false)
	if !slices.Equal(would, did) || r != r2 {
		t.Errorf("it said %v\nand did %v", would, did)
	}
	w.want("", "")
}

// Many records go in steps, each of which lets others have the locks.
func TestSteps(t *testing.T) {
	w := fresh(t)
	const n = 700
	w.update(func(tx *state.Tx) error {
		for i := range n {
			dg := digest.FromString(string(rune('a'+i%26)) + strings.Repeat("x", i))
			if err := content.Put(tx, "default", content.Blob{Digest: dg, Size: 1}); err != nil {
				return err
			}
		}
		return nil
	})
	before := w.generation()
	if r := w.collect(); r.Blobs != n {
		t.Errorf("removed %+v", r)
	}
	if steps := w.generation() - before; steps != 3 {
		t.Errorf("%d commits", steps)
	}
}

func (w *world) generation() (n int) {
	w.Helper()
	w.must(w.d.View(ctx, func(tx *state.Tx) (err error) {
		n, err = tx.Generation(true)
		return err
	}))
	return n
}

// A collection that goes on beside commits that never cease removes what is dead and nothing else.
func TestBesideCommits(t *testing.T) {
	w := fresh(t)
	w.blob("default", "loose")
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			err := w.d.Update(ctx, nil, func(tx *state.Tx) error {
				return image.Put(tx, "default", image.Image{Name: "x", Target: descriptor("target")})
			})
			if err != nil {
				done <- err
				return
			}
		}
	}()
	w.blob("default", "target", "containerd.io/gc.root", "1")
	w.collect()
	close(stop)
	w.must(<-done)
	if got := w.blobs("default"); got != "target" {
		t.Errorf("blobs %s", got)
	}
}

func TestHolders(t *testing.T) {
	w := fresh(t)
	m := w.image("default", "web", "base", "nginx")
	w.image("other", "app", "base")
	w.container(true, "default", "c", "base+nginx")
	w.lease("l", []lease.Resource{blobRes(m)})
	own := w.blob("default", "own", "containerd.io/gc.root", "1")
	loose := w.blob("default", "loose")
	held, err := lease.Live(w.d)
	w.must(err)
	text := func(all []gc.Holder) string {
		var s []string
		for _, h := range all {
			s = append(s, h.String())
		}
		slices.Sort(s)
		return strings.Join(s, ", ")
	}
	w.must(w.d.View(ctx, func(tx *state.Tx) error {
		h, err := gc.FindHolders(tx, held)
		if err != nil {
			return err
		}
		for what, c := range map[string]struct{ got, want string }{
			"manifest":  {text(h.Blob(m)), "image default/web, lease default/l"},
			"base":      {text(h.Blob(digest.FromString("base"))), "image default/web, image other/app, lease default/l"},
			"own":       {text(h.Blob(own)), "blob default/own"},
			"loose":     {text(h.Blob(loose)), ""},
			"layer":     {text(h.Dir(snapshot.Overlay, id("base"))), "container default/c, image default/web, image other/app, lease default/l"},
			"container": {text(h.Dir(snapshot.Overlay, id("c"))), "container default/c"},
		} {
			if what == "own" {
				c.want = "blob default/" + own.String()
			}
			if c.got != c.want {
				t.Errorf("%s: %s, want %s", what, c.got, c.want)
			}
		}
		return nil
	}))
	if err := gc.RemoveBlob(ctx, w.d, "default", m); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "image default/web") {
		t.Error(err)
	}
	w.must(gc.RemoveBlob(ctx, w.d, "default", own))
	if err := gc.RemoveBlob(ctx, w.d, "default", own); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func descriptor(text string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "test", Digest: digest.FromString(text), Size: int64(len(text))}
}
