// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/image"
)

// isClean tells whether a name cannot lead out of an archive.
func isClean(name string) bool {
	return name != "" && path.Clean("/"+name) == "/"+name && !strings.Contains("/"+name+"/", "/../")
}

// Whatever a stream is, what comes out of it has clean names, and nothing but a FormatError goes wrong.
func FuzzEntries(f *testing.F) {
	f.Add(pack(docker("app:1")...))
	f.Add(zipped(pack(text("./a", "1"), file{name: "b", link: "a", hard: true})))
	f.Add(pack(text("a/../b", "1")))
	f.Add(pack(text("oci-layout", "{}"))[:700])
	f.Add([]byte("BZh9"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for e, err := range entries(bytes.NewReader(data)) {
			var format *FormatError
			if err != nil {
				if !errors.As(err, &format) {
					t.Fatalf("%v is no FormatError", err)
				}
				return
			}
			if !isClean(e.name) || e.data == nil && e.link != "" && !isClean(e.link) {
				t.Fatalf("entry %q, link %q", e.name, e.link)
			}
			if e.data != nil {
				if n, err := io.Copy(io.Discard, io.LimitReader(e.data, 1<<20)); err == nil && n != e.size && e.size < 1<<20 {
					t.Fatalf("entry %q has %d bytes, not %d", e.name, n, e.size)
				}
			}
		}
	})
}

// checkNamed checks what is made of an archive's images: each name is one that image.Parse gives, and stands for one image.
func checkNamed(t *testing.T, all []item) {
	for _, opt := range []ImportOptions{{}, {Digests: true}, {BaseName: "reg.example/x"}, {Name: "app:1"}} {
		out, err := nameAll(all, opt)
		if err != nil {
			if !isFormat(err) {
				t.Fatalf("%v is no FormatError", err)
			}
			continue
		}
		of := map[string]digest.Digest{}
		for _, n := range out {
			ref, err := image.Parse(n.name)
			if err != nil || ref.String() != n.name || ref.Digest != "" && ref.Digest != n.target.Digest {
				t.Fatalf("name %q of %s: %v", n.name, n.target.Digest, err)
			}
			if _, again := of[n.name]; again {
				t.Fatalf("name %q comes twice", n.name)
			}
			of[n.name] = n.target.Digest
		}
	}
}

func FuzzLayout(f *testing.F) {
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}
	f.Add(indexOf(d, called(d, AnnotationName, "app:1"), called(d, ocispec.AnnotationRefName, "v1")), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	f.Add(indexOf(called(d, ocispec.AnnotationRefName, "reg.example/app:1@"+d.Digest.String())), []byte(nil))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:x"}]}`), []byte("[]"))
	f.Fuzz(func(t *testing.T, index, layout []byte) {
		all, err := parseLayout(index, layout)
		if err != nil {
			if !isFormat(err) {
				t.Fatalf("%v is no FormatError", err)
			}
			return
		}
		for _, it := range all {
			if it.target.Digest.Validate() != nil || it.target.Size < 0 {
				t.Fatalf("target %v", it.target)
			}
		}
		checkNamed(t, all)
	})
}

func FuzzSaved(f *testing.F) {
	f.Add(docker("app:1", "app:2")[3].data)
	f.Add([]byte(`[{"Config":"a","RepoTags":null,"Layers":null},{"Config":"../b","RepoTags":["x@sha256:1"]}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseSaved(data)
		if err != nil {
			if !isFormat(err) {
				t.Fatalf("%v is no FormatError", err)
			}
			return
		}
		again, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		if two, err := parseSaved(again); err != nil || len(two) != len(all) {
			t.Fatalf("written again it is refused: %v", err)
		}
		in := &intake{files: map[string]digest.Digest{}, links: map[string]string{}, size: map[digest.Digest]int64{}}
		var items []item
		for _, s := range all {
			if _, err := in.file(s.Config); !isFormat(err) {
				t.Fatalf("%q: %v", s.Config, err)
			}
			it := item{target: ocispec.Descriptor{Digest: digest.FromString(s.Config)}}
			for _, tag := range s.RepoTags {
				if it.add(tag) != nil {
					return
				}
			}
			items = merge(items, it)
		}
		checkNamed(t, items)
	})
}
