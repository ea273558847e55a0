// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// forPlatform pushes an image of one file for a platform and gives its entry in an index.
func (s *server) forPlatform(repo, platform string) (ocispec.Descriptor, ocispec.Descriptor) {
	s.t.Helper()
	p, err := image.ParsePlatform(platform)
	if err != nil {
		s.t.Fatal(err)
	}
	tarball := files("platform", platform)
	layer := s.blob(repo, ocispec.MediaTypeImageLayerGzip, zipped(tarball))
	config, err := json.Marshal(ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(tarball)}}})
	if err != nil {
		s.t.Fatal(err)
	}
	m := s.manifest(repo, "by-"+p.Architecture+p.Variant, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: s.blob(repo, ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{layer},
	})
	m.Platform = &p
	return m, layer
}

// artifact pushes a manifest of no image.
func (s *server) artifact(repo, tag string) (ocispec.Descriptor, []ocispec.Descriptor) {
	s.t.Helper()
	config := s.blob(repo, "application/vnd.cncf.helm.config.v1+json", []byte(`{"name":"chart"}`))
	layer := s.blob(repo, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", []byte("a chart"))
	m := s.manifest(repo, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
	return m, []ocispec.Descriptor{m, config, layer}
}

var six = []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/s390x", "linux/riscv64"}

func recordedBlobs(t *testing.T, d *state.Dir) (n int) {
	t.Helper()
	err := d.View(ctx, func(tx *state.Tx) error {
		for b, err := range content.All(tx, "ns") {
			if err != nil {
				return err
			}
			if _, err := os.Stat(content.Path(d, b.Digest)); err != nil {
				t.Error(err)
			}
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func snapshots(t *testing.T, d *state.Dir) (n int) {
	t.Helper()
	d.View(ctx, func(tx *state.Tx) error {
		for _, err := range snapshot.Overlay.All(tx, "ns") {
			if err != nil {
				t.Error(err)
			}
			n++
		}
		return nil
	})
	return n
}

// An index of six platforms and an attestation: what is asked for comes, in one commit, and what is for this
// machine, or was named, is unpacked.
func TestPlatforms(t *testing.T) {
	s := newServer(t)
	var entries []ocispec.Descriptor
	for _, p := range six {
		m, _ := s.forPlatform("test/six", p)
		entries = append(entries, m)
	}
	attestation, _ := s.artifact("test/six", "attestation")
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	target := s.manifest("test/six", "1", ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: append(entries, attestation)})
	ref := s.host + "/test/six:1"
	for name, c := range map[string]struct {
		platforms        []string
		all, noUnpack    bool
		blobs, snapshots int
	}{
		"machine":           {blobs: 1 + 3, snapshots: 1},
		"two":               {platforms: []string{"linux/arm64", "linux/s390x"}, blobs: 1 + 6, snapshots: 2},
		"one twice":         {platforms: []string{"linux/arm64", "linux/arm64"}, blobs: 1 + 3, snapshots: 1},
		"all":               {all: true, blobs: 1 + 6*3 + 3, snapshots: 1},
		"all, not unpacked": {all: true, noUnpack: true, blobs: 1 + 6*3 + 3},
	} {
		d := openDir(t, t.TempDir())
		opt := options()
		opt.Platforms, opt.AllPlatforms, opt.NoUnpack = c.platforms, c.all, c.noUnpack
		var warned []string
		opt.Warn = func(text string) { warned = append(warned, text) }
		img, err := pullText(ctx, d, ref, opt)
		if err != nil || img.Target.Digest != target.Digest || len(warned) > 0 {
			t.Errorf("%s: %v, %v, %q", name, img, err, warned)
			continue
		}
		if got := recordedBlobs(t, d); got != c.blobs {
			t.Errorf("%s: %d blobs, want %d", name, got, c.blobs)
		}
		if got := snapshots(t, d); got != c.snapshots {
			t.Errorf("%s: %d snapshots, want %d", name, got, c.snapshots)
		}
		before, _ := os.Stat(d.Path("meta.db"))
		s.set(nil)
		if _, err := pullText(ctx, d, ref, opt); err != nil {
			t.Errorf("%s: again: %v", name, err)
		}
		if after, _ := os.Stat(d.Path("meta.db")); s.all > 2 || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("%s: again: %d requests, or a commit", name, s.all)
		}
		if _, err := gc.Collect(ctx, d); err != nil {
			t.Error(err)
		}
		if got := recordedBlobs(t, d); got != c.blobs {
			t.Errorf("%s: %d blobs after a collection, want %d", name, got, c.blobs)
		}
	}
	opt := options()
	opt.Platforms = []string{"linux/amd64", "linux/ppc64le"}
	d := openDir(t, t.TempDir())
	if _, err := pullText(ctx, d, ref, opt); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("a platform that is not there: %v", err)
	}
	invisible(t, d, "a platform that is not there")
}

// What is no image is kept and not unpacked, with a warning, and nobody can run it.
func TestArtifact(t *testing.T) {
	s := newServer(t)
	target, blobs := s.artifact("test/chart", "1")
	d := openDir(t, t.TempDir())
	opt := options()
	var warned []string
	opt.Warn = func(text string) { warned = append(warned, text) }
	img, err := pullText(ctx, d, s.host+"/test/chart:1", opt)
	if err != nil || img.Target.Digest != target.Digest {
		t.Fatal(err)
	}
	if len(warned) != 1 || !strings.Contains(warned[0], "helm") {
		t.Errorf("warned %q", warned)
	}
	if _, err := gc.Collect(ctx, d); err != nil {
		t.Fatal(err)
	}
	if n := recordedBlobs(t, d); n != len(blobs) || snapshots(t, d) > 0 {
		t.Errorf("%d blobs, %d snapshots", n, snapshots(t, d))
	}
	p, _ := image.ParsePlatform("")
	var artifact *image.ArtifactError
	if _, err := image.Resolve(d, img.Target, p); !errors.As(err, &artifact) || !errdefs.IsNotImplemented(err) {
		t.Errorf("it is taken for an image: %v", err)
	}
}

// The blobs of layers that were unpacked go with the next collection. Then the same pull asks for no layer, and
// one that keeps them asks for each.
func TestDiscard(t *testing.T) {
	s := newServer(t)
	b := s.build("test/app", "1", files("a", "1"), files("b", "2"))
	d := openDir(t, t.TempDir())
	keeping, discarding := options(), options()
	discarding.Discard = true
	for round, c := range []struct {
		opt         Options
		blobs, gets int
	}{{discarding, 2, 1}, {discarding, 2, 0}, {keeping, 4, 1}, {keeping, 4, 0}, {discarding, 2, 0}} {
		s.set(nil)
		if _, err := pullText(ctx, d, b.ref, c.opt); err != nil {
			t.Fatal(err)
		}
		for _, l := range b.layers {
			if gets, _ := s.count(l.Digest); gets != c.gets {
				t.Errorf("round %d: %d requests for a layer, want %d", round, gets, c.gets)
			}
		}
		if _, err := gc.Collect(ctx, d); err != nil {
			t.Fatal(err)
		}
		if n := recordedBlobs(t, d); n != c.blobs || snapshots(t, d) != 2 {
			t.Errorf("round %d: %d blobs, %d snapshots", round, n, snapshots(t, d))
		}
	}
}

// Each compression that layers come in, of each family of media types.
func TestCompressions(t *testing.T) {
	s := newServer(t)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for typ, pack := range map[string]func([]byte) []byte{
		ocispec.MediaTypeImageLayer:                                 func(b []byte) []byte { return b },
		ocispec.MediaTypeImageLayerGzip:                             zipped,
		ocispec.MediaTypeImageLayerZstd:                             func(b []byte) []byte { return z.EncodeAll(b, nil) },
		"application/vnd.docker.image.rootfs.diff.tar":              func(b []byte) []byte { return b },
		"application/vnd.docker.image.rootfs.diff.tar.gzip":         zipped,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": zipped,
		//lint:ignore SA1019 registries still have them
		ocispec.MediaTypeImageLayerNonDistributableGzip: zipped,
	} {
		n++
		d := openDir(t, t.TempDir())
		tarball := large("file", 300<<10, uint64(n))
		b := built{diffIDs: []digest.Digest{digest.FromBytes(tarball)}, layers: []ocispec.Descriptor{s.blob("test/z", typ, pack(tarball))}}
		s.push(b, "test/z", fmt.Sprint(n))
		if _, err := pullText(ctx, d, fmt.Sprintf("%s/test/z:%d", s.host, n), options()); err != nil {
			t.Errorf("%s: %v", typ, err)
			continue
		}
		if st, err := os.Stat(snapshot.Overlay.FS(d, snapshot.LayerID(b.diffIDs[0])) + "/file"); err != nil || st.Size() != 300<<10 {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

// A list and a manifest of docker's schema 2 keep their types and digests, and the image is unpacked.
func TestDockerSchema2(t *testing.T) {
	s := newServer(t)
	tarball := files("f", "x")
	p, _ := image.ParsePlatform("")
	config, err := json.Marshal(ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(tarball)}}})
	if err != nil {
		t.Fatal(err)
	}
	type document struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
	}
	m := s.manifest("test/docker", "one", image.DockerManifest, struct {
		document
		Config ocispec.Descriptor   `json:"config"`
		Layers []ocispec.Descriptor `json:"layers"`
	}{
		document{2, image.DockerManifest}, s.blob("test/docker", image.DockerConfig, config),
		[]ocispec.Descriptor{s.blob("test/docker", "application/vnd.docker.image.rootfs.diff.tar.gzip", zipped(tarball))},
	})
	entry := m
	entry.Platform = &p
	list := s.manifest("test/docker", "all", image.DockerList, struct {
		document
		Manifests []ocispec.Descriptor `json:"manifests"`
	}{document{2, image.DockerList}, []ocispec.Descriptor{entry}})
	for tag, want := range map[string]ocispec.Descriptor{"one": m, "all": list} {
		d := openDir(t, t.TempDir())
		img, err := pullText(ctx, d, s.host+"/test/docker:"+tag, options())
		if err != nil || img.Target.Digest != want.Digest || img.Target.MediaType != want.MediaType {
			t.Errorf("%s: %+v, %v", tag, img.Target, err)
			continue
		}
		if data, err := os.ReadFile(trees(t, d, img)[0] + "/f"); err != nil || string(data) != "x" {
			t.Errorf("%s: %q, %v", tag, data, err)
		}
	}
}

// An image of 128 layers.
func TestManyLayers(t *testing.T) {
	s := newServer(t)
	var tars [][]byte
	for n := range 128 {
		tars = append(tars, files(fmt.Sprint("file", n), "x"))
	}
	b := s.build("test/many", "1", tars...)
	d := openDir(t, t.TempDir())
	if _, err := pullText(ctx, d, b.ref, options()); err != nil || snapshots(t, d) != 128 {
		t.Errorf("%d snapshots, %v", snapshots(t, d), err)
	}
}
