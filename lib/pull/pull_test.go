// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

func TestPull(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := s.build("test/app", "1", files("a", "lower", "b", "kept"), files("a", "upper", ".wh.b", ""))
	var mu sync.Mutex
	last := map[digest.Digest]progress.Status{}
	opt := options()
	opt.Progress = func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		last[e.Descriptor.Digest] = e.Status
	}
	img, err := pullText(ctx, d, b.ref, opt)
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != b.ref || img.Target.Digest != b.manifest.Digest {
		t.Errorf("%+v", img)
	}
	for _, l := range b.layers {
		if last[l.Digest] != progress.Done {
			t.Errorf("progress ended with %q", last[l.Digest])
		}
	}
	p, _ := image.ParsePlatform("")
	m, err := image.Resolve(d, img.Target, p)
	if err != nil {
		t.Fatal(err)
	}
	err = d.View(ctx, func(tx *state.Tx) error {
		layers, err := snapshot.Overlay.Layers(ctx, tx, d, "ns", m.ChainIDs[1].String())
		if err != nil {
			return err
		}
		for n, want := range []string{"upper", "lower"} {
			if got, err := os.ReadFile(layers[n] + "/a"); err != nil || string(got) != want {
				t.Errorf("layer %d: %q, %v", n, got, err)
			}
		}
		checkLabels(t, tx, b, m)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := eventNames(d); strings.Count(got, "/content/create") != 4 || strings.Count(got, "/snapshot/commit") != 2 || !strings.HasSuffix(got, "/images/create]") {
		t.Errorf("events %s", got)
	}

	// Again: one login and one question, no write.
	s.set(nil)
	before, _ := os.Stat(d.Path("meta.db"))
	clear(last)
	if _, err := pullText(ctx, d, b.ref, opt); err != nil {
		t.Fatal(err)
	}
	after, _ := os.Stat(d.Path("meta.db"))
	if s.all > 2 || !before.ModTime().Equal(after.ModTime()) || last[b.layers[0].Digest] != progress.Exists {
		t.Errorf("%d requests, database of %v, then %v, progress %v", s.all, before.ModTime(), after.ModTime(), last)
	}
}

func checkLabels(t *testing.T, tx *state.Tx, b built, m image.Manifest) {
	t.Helper()
	host := strings.Split(b.ref, "/")[0]
	for d, want := range map[digest.Digest]map[string]string{
		b.manifest.Digest: {
			"containerd.io/gc.ref.content.config": m.Manifest.Config.Digest.String(),
			"containerd.io/gc.ref.content.l.0":    b.layers[0].Digest.String(),
			"containerd.io/gc.ref.content.l.1":    b.layers[1].Digest.String(),
		},
		m.Manifest.Config.Digest: {"containerd.io/gc.ref.snapshot.overlayfs": m.ChainIDs[1].String()},
		b.layers[1].Digest:       {"containerd.io/uncompressed": b.diffIDs[1].String()},
	} {
		hostname, _, _ := strings.Cut(host, ":")
		want["containerd.io/distribution.source."+hostname] = "test/app"
		blob, err := content.Get(tx, "ns", d)
		if err != nil || fmt.Sprint(blob.Labels) != fmt.Sprint(want) {
			t.Errorf("labels %v, want %v; %v", blob.Labels, want, err)
		}
	}
}

// Another name, another namespace and an unpack after a pull without one ask for no layer again.
func TestShared(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := s.build("test/app", "1", files("a", "1"), files("b", "2"))
	s.push(b, "test/app", "2")
	opt := options()
	opt.NoUnpack = true
	if _, err := pullText(ctx, d, b.ref, opt); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.Path("snapshots")); err == nil {
		t.Error("unpacked although that was not wanted")
	}
	s.set(nil)
	for _, c := range []struct{ ns, tag string }{{"ns", "1"}, {"ns", "2"}, {"other", "1"}} {
		opt := options()
		opt.Namespace = c.ns
		img, err := pullText(ctx, d, s.host+"/test/app:"+c.tag, opt)
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		if n, _ := s.count(b.layers[0].Digest); n != 0 {
			t.Errorf("%v: the layer was fetched again", c)
		}
		d.View(ctx, func(tx *state.Tx) error {
			p, _ := image.ParsePlatform("")
			m, err := image.Resolve(d, img.Target, p)
			if err != nil {
				t.Fatal(err)
			}
			if chain, err := snapshot.Overlay.Chain(tx, c.ns, m.ChainIDs[1].String()); err != nil || len(chain) != 2 || chain[0].Size == 0 {
				t.Errorf("%v: %v, %v", c, chain, err)
			}
			return nil
		})
	}
}

// More names come in the commit of the first, and one that is missing later is made good without asking for a layer.
func TestAlso(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := s.build("test/app", "1", files("a", "1"))
	opt := options()
	opt.Labels = map[string]string{"by": "test"}
	opt.Also = func(target ocispec.Descriptor, m image.Manifest) []string {
		return []string{"pinned@" + target.Digest.String(), m.Manifest.Config.Digest.String()}
	}
	for round := range 2 {
		img, err := pullText(ctx, d, b.ref, opt)
		if err != nil {
			t.Fatal(err)
		}
		names := []string{b.ref, "pinned@" + img.Target.Digest.String()}
		var all []string
		err = d.Update(ctx, nil, func(tx *state.Tx) error {
			for one, err := range image.All(tx, "ns") {
				if err != nil || one.Target.Digest != b.manifest.Digest || one.Labels["by"] != "test" {
					t.Errorf("round %d: %+v, %v", round, one, err)
				}
				all = append(all, one.Name)
			}
			return image.Remove(tx, "ns", names[1])
		})
		if err != nil || len(all) != 3 || !slices.Contains(all, names[0]) || !slices.Contains(all, names[1]) {
			t.Errorf("round %d: %v, %v", round, all, err)
		}
	}
}

func TestTagMoves(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	for _, text := range []string{"one", "two"} {
		b := s.build("test/app", "latest", files("a", text))
		img, err := pullText(ctx, d, b.ref, options())
		if err != nil || img.Target.Digest != b.manifest.Digest {
			t.Errorf("%s: %v, %v", text, img.Target, err)
		}
		byDigest, err := pullText(ctx, d, s.host+"/test/app:other@"+b.manifest.Digest.String(), options())
		if err != nil || byDigest.Target.Digest != b.manifest.Digest || !strings.HasSuffix(byDigest.Name, "/app@"+b.manifest.Digest.String()) {
			t.Errorf("%s by digest: %+v, %v", text, byDigest, err)
		}
	}
}

func TestIndex(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := s.build("test/app", "one", files("a", "1"))
	own, _ := image.ParsePlatform("")
	b.manifest.Platform = &own
	other := s.build("test/app", "other", files("b", "2")).manifest
	other.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	index := s.manifest("test/app", "all", ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{other, b.manifest}})
	img, err := pullText(ctx, d, s.host+"/test/app:all", options())
	if err != nil || img.Target.Digest != index.Digest {
		t.Fatal(img, err)
	}
	d.View(ctx, func(tx *state.Tx) error {
		got, err := content.Get(tx, "ns", index.Digest)
		if err != nil || got.Labels["containerd.io/gc.ref.content.m.0"] != other.Digest.String() || got.Labels["containerd.io/gc.ref.content.m.1"] != b.manifest.Digest.String() {
			t.Errorf("%v, %v", got.Labels, err)
		}
		return nil
	})
	opt := options()
	opt.Platforms = []string{"linux/riscv64"}
	if _, err := pullText(ctx, d, s.host+"/test/app:all", opt); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("absent platform: %v", err)
	}
}

// The same layer twice, an image without layers, an uncompressed one.
func TestOddImages(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	same := files("a", "1")
	if _, err := pullText(ctx, d, s.build("test/twice", "1", same, same, same).ref, options()); err != nil {
		t.Error(err)
	}
	if _, err := pullText(ctx, d, s.build("test/empty", "1").ref, options()); err != nil {
		t.Error(err)
	}
	plain := built{ref: s.host + "/test/plain:1", diffIDs: []digest.Digest{digest.FromBytes(same)}}
	plain.layers = []ocispec.Descriptor{s.blob("test/plain", ocispec.MediaTypeImageLayer, same)}
	if _, err := pullText(ctx, d, s.push(plain, "test/plain", "1").ref, options()); err != nil {
		t.Error(err)
	}
}

// TestTooManyLayers: an image that can never run is refused before its layers are fetched. Its blobs can be had.
func TestTooManyLayers(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := built{ref: s.host + "/test/many:1"}
	same := files("a", "1")
	layer := s.blob("test/many", ocispec.MediaTypeImageLayerGzip, zipped(same))
	for range mount.MaxLayers + 1 {
		b.layers, b.diffIDs = append(b.layers, layer), append(b.diffIDs, digest.FromBytes(same))
	}
	s.push(b, "test/many", "1")
	_, err := pullText(ctx, d, b.ref, options())
	if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "501 layers") || !strings.Contains(err.Error(), "500") {
		t.Errorf("%v", err)
	}
	if gets, _ := s.count(layer.Digest); gets != 0 {
		t.Errorf("%d downloads of its layer", gets)
	}
	opt := options()
	opt.NoUnpack = true
	if _, err := pullText(ctx, d, b.ref, opt); err != nil {
		t.Error(err)
	}
}

// A large layer is fetched over several connections, if the registry serves ranges.
func TestRanges(t *testing.T) {
	tarball := large("big", 80<<20, 1)
	for _, ranges := range []bool{true, false} {
		d := openDir(t, t.TempDir())
		s := newServer(t)
		b := s.build("test/big", "1", tarball)
		s.set(func(w http.ResponseWriter, r *http.Request) bool {
			if !ranges {
				r.Header.Del("Range")
			}
			return false
		})
		if _, err := pullText(ctx, d, b.ref, options()); err != nil {
			t.Fatal(err)
		}
		gets, _ := s.count(b.layers[0].Digest)
		if ranges && gets < spread || !ranges && gets > 2 {
			t.Errorf("ranges %v: %d requests", ranges, gets)
		}
	}
}
