// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/state"
)

// documents is a content store in memory.
type documents map[digest.Digest][]byte

func (s documents) add(mediaType string, v any) ocispec.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	s[d.Digest] = data
	return d
}

func (s documents) read(d ocispec.Descriptor) ([]byte, error) {
	if data, ok := s[d.Digest]; ok {
		return data, nil
	}
	return nil, fmt.Errorf("%s: %w", d.Digest, errdefs.ErrNotFound)
}

// image adds an image of one platform with one layer.
func (s documents) image(platform string) ocispec.Descriptor {
	p, err := ParsePlatform(platform)
	if err != nil {
		panic(err)
	}
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(platform), Size: 5}
	config := s.add(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("diff")}}})
	d := s.add(ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
	d.Platform = &p
	return d
}

func TestResolve(t *testing.T) {
	s := documents{}
	var list []ocispec.Descriptor
	for _, p := range []string{"linux/arm/v6", "linux/arm64", "linux/386", "linux/amd64", "linux/arm/v7"} {
		list = append(list, s.image(p))
	}
	list = append(list, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("attestation"), Size: 1, Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"}})
	index := s.add(ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list})
	nested := s.add(DockerList, ocispec.Index{MediaType: DockerList, Manifests: []ocispec.Descriptor{index}})
	for want, entry := range map[string]int{"linux/amd64": 3, "linux/arm64": 1, "linux/arm/v7": 4, "linux/arm/v6": 0, "linux/386": 2} {
		p, err := ParsePlatform(want)
		if err != nil {
			t.Fatal(err)
		}
		for n, target := range []ocispec.Descriptor{list[entry], index, nested} {
			m, err := ResolveFrom(s.read, target, p)
			if err != nil || m.Descriptor.Digest != list[entry].Digest || len(m.Indexes) != n || len(m.ChainIDs) != 1 {
				t.Errorf("%s by way of %d indexes: %v, %v", want, n, m.Descriptor, err)
			}
		}
	}
	p, _ := ParsePlatform("linux/s390x")
	for _, target := range []ocispec.Descriptor{index, list[3]} {
		_, err := ResolveFrom(s.read, target, p)
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(err.Error(), "linux/amd64") || strings.Contains(err.Error(), "unknown") {
			t.Errorf("absent platform: %v", err)
		}
	}
	if _, err := ParsePlatform("a/b/c/d/e"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("platform: %v", err)
	}
}

func TestResolveHostile(t *testing.T) {
	s := documents{}
	p, _ := ParsePlatform("linux/amd64")
	good := s.image("linux/amd64")
	deep := good
	for range maxDepth + 1 {
		deep = s.add(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{deep}})
		deep.Platform = good.Platform
	}
	config := s.add(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers"}})
	layer := ocispec.Descriptor{Digest: good.Digest, Size: 1}
	manifest := func(v any) ocispec.Descriptor { return s.add(ocispec.MediaTypeImageManifest, v) }
	type loose map[string]any
	for name, c := range map[string]struct {
		target ocispec.Descriptor
		is     func(error) bool
	}{
		"too deep":        {deep, errdefs.IsFailedPrecondition},
		"empty index":     {s.add(ocispec.MediaTypeImageIndex, ocispec.Index{}), errdefs.IsNotFound},
		"layers differ":   {manifest(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{layer}}), errdefs.IsFailedPrecondition},
		"no config":       {manifest(loose{"layers": []any{}}), errdefs.IsFailedPrecondition},
		"both":            {manifest(loose{"manifests": []any{}, "config": config, "layers": []any{}}), errdefs.IsFailedPrecondition},
		"other type":      {manifest(loose{"mediaType": ocispec.MediaTypeImageIndex, "manifests": []any{}}), errdefs.IsFailedPrecondition},
		"schema 1":        {manifest(loose{"fsLayers": []any{}}), errdefs.IsNotImplemented},
		"artifact":        {manifest(ocispec.Manifest{ArtifactType: "x/y", Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: good.Digest}}), errdefs.IsNotImplemented},
		"bad layer":       {manifest(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{{Digest: "sha256:../..", Size: 1}}}), errdefs.IsFailedPrecondition},
		"negative layer":  {manifest(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{{Digest: good.Digest, Size: -1}}}), errdefs.IsFailedPrecondition},
		"huge manifest":   {s.add(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{{MediaType: good.MediaType, Digest: good.Digest, Size: 1 << 40}}}), errdefs.IsFailedPrecondition},
		"no JSON":         {manifest("x"), errdefs.IsFailedPrecondition},
		"helm chart":      {ocispec.Descriptor{MediaType: "application/vnd.cncf.helm", Digest: good.Digest}, errdefs.IsNotImplemented},
		"config is alien": {manifest(ocispec.Manifest{Config: s.add(ocispec.MediaTypeImageConfig, loose{"rootfs": loose{"type": "files"}})}), errdefs.IsFailedPrecondition},
	} {
		if _, err := ResolveFrom(s.read, c.target, p); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The media type of a configuration that says nothing does not decide; one that names something else does.
func TestConfigMediaTypes(t *testing.T) {
	p, _ := ParsePlatform("linux/amd64")
	valid, _ := json.Marshal(ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers"}})
	for typ, ok := range map[string]bool{
		"": true, "application/octet-stream": true, "text/html": true, "text/html; charset=utf-8": true, "application/json": true,
		DockerConfig: true, "application/vnd.cncf.helm.config.v1+json": false, ocispec.MediaTypeEmptyJSON: false, "application/vnd.unknown.config.v1+json": false,
	} {
		for name, data := range map[string]string{"image": string(valid), "chart": `{"name":"chart","version":"1"}`} {
			s := documents{}
			config := ocispec.Descriptor{MediaType: typ, Digest: digest.FromString(data), Size: int64(len(data))}
			s[config.Digest] = []byte(data)
			target := s.add(DockerManifest, ocispec.Manifest{MediaType: DockerManifest, Config: config})
			_, err := ResolveFrom(s.read, target, p)
			switch {
			case ok && name == "image":
				if err != nil {
					t.Errorf("%q: %v", typ, err)
				}
			case ok && IsConfig(typ):
				if !errdefs.IsFailedPrecondition(err) {
					t.Errorf("%q, a chart: %v", typ, err)
				}
			case !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), typ):
				t.Errorf("%q, %s: %v", typ, name, err)
			}
		}
	}
}

// Where index and configuration disagree on the platform, the index decides.
func TestPlatformsDisagree(t *testing.T) {
	s := documents{}
	arm, _ := ParsePlatform("linux/arm64")
	entry := s.image("linux/amd64")
	entry.Platform = &arm
	m, err := ResolveFrom(s.read, s.add(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{entry}}), arm)
	if err != nil || !strings.Contains(m.Odd, "linux/arm64") || !strings.Contains(m.Odd, "linux/amd64") {
		t.Errorf("%q, %v", m.Odd, err)
	}
	entry.Platform = nil
	for _, target := range []ocispec.Descriptor{entry, s.add(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{entry}})} {
		if _, err := ResolveFrom(s.read, target, arm); !errdefs.IsNotFound(err) {
			t.Errorf("without an index that speaks: %v", err)
		}
	}
}

func TestChainIDs(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	ids := ChainIDs([]digest.Digest{a, b})
	if ids[0] != a || ids[1] != digest.FromString(a.String()+" "+b.String()) || len(ChainIDs(nil)) != 0 {
		t.Error(ids)
	}
}

// What a document makes of memory has a bound that has something to do with its length.
func TestDocumentsOfManyObjects(t *testing.T) {
	many := strings.Repeat("{},", MaxManifest/3-100) + "{}"
	for what, parse := range map[string]func() error{
		"index": func() error {
			_, err := ParseIndex([]byte(`{"manifests":[`+many+`]}`), ocispec.MediaTypeImageIndex)
			return err
		},
		"layers": func() error {
			_, err := ParseManifest([]byte(`{"layers":[`+many+`]}`), ocispec.MediaTypeImageManifest)
			return err
		},
		"history": func() error {
			_, err := ParseConfig([]byte(`{"rootfs":{"type":"layers"},"history":[`+many+`]}`), 0)
			return err
		},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := parse()
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; !errdefs.IsFailedPrecondition(err) || used > 4*MaxManifest {
			t.Errorf("%s: %d MiB, %v", what, used>>20, err)
		}
	}
}

func FuzzDocuments(f *testing.F) {
	s := documents{}
	f.Add(s[s.image("linux/amd64").Digest])
	for _, data := range s {
		f.Add(data)
	}
	f.Add([]byte(`{"manifests":[{"platform":{"os":"linux"},"digest":"x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := ParseManifest(data, ocispec.MediaTypeImageManifest); err == nil {
			for _, l := range append(m.Layers, m.Config) {
				if l.Size < 0 || l.Digest.Validate() != nil {
					t.Errorf("%q: %v", data, l)
				}
			}
		}
		if x, err := ParseIndex(data, ocispec.MediaTypeImageIndex); err == nil {
			p, _ := ParsePlatform("")
			ResolveFrom(func(d ocispec.Descriptor) ([]byte, error) { return data, nil }, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex}, p)
			for _, m := range x.Manifests {
				if m.Size < 0 || m.Digest.Validate() != nil {
					t.Errorf("%q: %v", data, m)
				}
			}
		}
		if c, err := ParseConfig(data, 1); err == nil && len(ChainIDs(c.RootFS.DiffIDs)) != 1 {
			t.Errorf("%q: %v", data, c.RootFS)
		}
	})
}

// keep brings the documents into the content store of a directory.
func (s documents) keep(t *testing.T, d *state.Dir) {
	t.Helper()
	for dg, data := range s {
		i, err := content.Begin(ctx, d, nil, ocispec.Descriptor{Digest: dg, Size: int64(len(data))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(i.Commit(), i.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPresent(t *testing.T) {
	d := openDir(t)
	s := documents{}
	list := []ocispec.Descriptor{s.image("linux/amd64"), s.image("linux/arm64"), s.image("linux/s390x")}
	index := s.add(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: list})
	delete(s, list[1].Digest)
	s.keep(t, d)
	all, err := Present(d, index)
	if err != nil || len(all) != 2 || all[0].Platform() != "linux/amd64" || all[1].Platform() != "linux/s390x" || all[0].Size() < 100 {
		t.Errorf("%v, %v", all, err)
	}
	if all, err := Present(d, list[1]); err != nil || len(all) != 0 {
		t.Errorf("absent: %v, %v", all, err)
	}
}

// Indexes that list one document many times, level by level, lead to it once.
func TestPresentHostile(t *testing.T) {
	d := openDir(t)
	s := documents{}
	target := s.image("linux/amd64")
	for range 3 {
		target = s.add(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: slices.Repeat([]ocispec.Descriptor{target}, 20)})
	}
	s.keep(t, d)
	all, err := Present(d, target)
	if err != nil || len(all) != 1 || len(all[0].Indexes) != 3 {
		t.Errorf("%d images, %v", len(all), err)
	}
	// One that has read all but as much as it may goes no further.
	p := inStore(d)
	p.size = maxPresent - int(target.Size) - 1
	if err := p.add(target, nil); !errdefs.IsFailedPrecondition(err) || len(p.all) != 0 {
		t.Errorf("too much: %d images, %v", len(p.all), err)
	}
}

func TestIndexIsBounded(t *testing.T) {
	s := documents{}
	entry := s.image("linux/amd64")
	for n, ok := range map[int]bool{maxEntries: true, maxEntries + 1: false} {
		x := s.add(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: slices.Repeat([]ocispec.Descriptor{entry}, n)})
		_, err := ParseIndex(s[x.Digest], x.MediaType)
		if ok && err != nil || !ok && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%d entries: %v", n, err)
		}
	}
}

func TestDiffIDs(t *testing.T) {
	for id, is := range map[digest.Digest]func(error) bool{
		digest.FromString("x"):                                   func(err error) bool { return err == nil },
		digest.SHA512.FromString("x"):                            errdefs.IsNotImplemented,
		digest.SHA384.FromString("x"):                            errdefs.IsNotImplemented,
		"blake3:" + digest.Digest(strings.Repeat("01234567", 8)): errdefs.IsNotImplemented,
		"sha256:12": errdefs.IsFailedPrecondition,
		digest.Digest(strings.Repeat("01234567", 8)): errdefs.IsFailedPrecondition,
		"": errdefs.IsFailedPrecondition,
	} {
		data, err := json.Marshal(ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{id}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseConfig(data, 1); !is(err) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// The blobs of a checkpoint of containerd's are entries of its index, and as large as they are; documents have their bound
// there, too.
func TestCheckpointParts(t *testing.T) {
	entry := func(mediaType string, size int64) string {
		return fmt.Sprintf(`{"mediaType":%q,"size":%d,"digest":"sha256:%064x"}`, mediaType, size, size)
	}
	const criu, layer = "application/vnd.containerd.container.criu.checkpoint.criu.tar", "application/vnd.oci.image.layer.v1.tar+gzip"
	for name, c := range map[string]struct {
		entries []string
		parts   int
		bad     bool
	}{
		"checkpoint":        {[]string{entry(ocispec.MediaTypeImageManifest, 7), entry(criu, 1<<40), entry(layer, 1<<30)}, 2, false},
		"image":             {[]string{entry(ocispec.MediaTypeImageManifest, 7)}, 0, false},
		"layers alone":      {[]string{entry(layer, 7)}, 0, false},
		"too large":         {[]string{entry(criu, 7), entry(ocispec.MediaTypeImageManifest, MaxManifest+1)}, 0, true},
		"a negative size":   {[]string{entry(criu, -1)}, 0, true},
		"without a digest":  {[]string{`{"mediaType":"` + criu + `","size":1}`}, 0, true},
		"a digest of paths": {[]string{`{"mediaType":"` + criu + `","size":1,"digest":"sha256:../../etc/passwd"}`}, 0, true},
	} {
		x, err := ParseIndex([]byte(`{"schemaVersion":2,"manifests":[`+strings.Join(c.entries, ",")+`]}`), ocispec.MediaTypeImageIndex)
		if (err != nil) != c.bad || len(CheckpointParts(x)) != c.parts && !c.bad {
			t.Errorf("%s: %v, %v", name, CheckpointParts(x), err)
		}
	}
}
