// SPDX-License-Identifier: Apache-2.0

package push

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzParse: what is taken for a document names no blob that cannot be one, says all that a push needs when it is written again,
// and what is not taken has one of two kinds.
func FuzzParse(f *testing.F) {
	blob := ocispec.Descriptor{MediaType: "application/x", Digest: digest.FromString("blob"), Size: 4}
	for _, v := range []any{
		document{MediaType: ocispec.MediaTypeImageManifest, Config: &blob, Layers: []ocispec.Descriptor{blob, blob}},
		document{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{blob}, Subject: &blob, Annotations: map[string]string{"a": "b"}},
		document{MediaType: "application/vnd.oci.artifact.manifest.v1+json", ArtifactType: "application/y", Blobs: []ocispec.Descriptor{blob}},
		map[string]any{"config": map[string]any{"digest": "sha256:0", "size": -1}},
		map[string]any{"fsLayers": []any{}},
		map[string]any{"layers": []any{nil}, "config": nil, "subject": map[string]any{}},
	} {
		data, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"layers":[`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
		m, err := parse(data, desc)
		if err != nil {
			if !errors.Is(err, errdefs.ErrFailedPrecondition) && !errors.Is(err, errdefs.ErrNotImplemented) {
				t.Errorf("%q: %v has no kind", data, err)
			}
			return
		}
		named := blobsOf(m)
		for _, d := range named {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("%q: names %q of %d bytes", data, d.Digest, d.Size)
			}
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		twin, err := parse(again, desc)
		if err != nil {
			t.Fatalf("%q: written again, %q: %v", data, again, err)
		}
		if more := blobsOf(twin); len(more) != len(named) || twin.MediaType != m.MediaType || twin.ArtifactType != m.ArtifactType {
			t.Errorf("%q: written again, %q names %d blobs, not %d", data, again, len(more), len(named))
		} else {
			for i := range named {
				if more[i].Digest != named[i].Digest || more[i].Size != named[i].Size || more[i].MediaType != named[i].MediaType {
					t.Errorf("%q: written again, %q has %v for %v", data, again, more[i], named[i])
				}
			}
		}
	})
}

// blobsOf gives all that a document names.
func blobsOf(m document) []ocispec.Descriptor {
	var all []ocispec.Descriptor
	for _, list := range [][]ocispec.Descriptor{m.Manifests, m.Layers, m.Blobs} {
		all = append(all, list...)
	}
	for _, one := range []*ocispec.Descriptor{m.Config, m.Subject} {
		if one != nil {
			all = append(all, *one)
		}
	}
	return all
}
