// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"
)

// evil is what hostile images bring.
var evil = map[string][]*tar.Header{
	"dotdot":   {{Name: "../../../../escaped", Typeflag: tar.TypeReg, Size: 2, Mode: 0o644}},
	"absolute": {{Name: "/escaped", Typeflag: tar.TypeReg, Size: 2, Mode: 0o644}},
	"symlink": {
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/tmp", Mode: 0o777},
		{Name: "out/ctrd-e2e-escaped", Typeflag: tar.TypeReg, Size: 2, Mode: 0o644},
	},
	"updir": {
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../../tmp", Mode: 0o777},
		{Name: "out/ctrd-e2e-escaped", Typeflag: tar.TypeReg, Size: 2, Mode: 0o644},
	},
	"hardlink": {{Name: "stolen", Typeflag: tar.TypeLink, Linkname: "../../../../../../../../etc/passwd"}},
	"huge":     {{Name: "huge", Typeflag: tar.TypeReg, Size: 1<<63 - 1, Mode: 0o644}},
}

// hostile KIND pushes an image with a hostile layer as $REGISTRY/hostile/KIND:1.
func hostile(ts *testscript.TestScript, neg bool, args []string) {
	headers := evil[arg(args, 0)]
	if headers == nil {
		ts.Fatalf("no such image: %q", arg(args, 0))
	}
	var raw, packed bytes.Buffer
	tw := tar.NewWriter(&raw)
	for _, h := range headers {
		h := *h
		if h.Size > 1<<40 {
			h.Format = tar.FormatGNU
		}
		ts.Check(tw.WriteHeader(&h))
		if h.Size == 2 {
			_, err := tw.Write([]byte("x\n"))
			ts.Check(err)
		}
	}
	if args[0] != "huge" {
		ts.Check(tw.Close())
	}
	zw := gzip.NewWriter(&packed)
	_, err := zw.Write(raw.Bytes())
	ts.Check(err)
	ts.Check(zw.Close())
	diffID, _, err := v1.SHA256(&raw)
	ts.Check(err)
	layer := layerWithDiffID{static.NewLayer(packed.Bytes(), types.OCILayer), diffID}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	ts.Check(err)
	file, err := img.ConfigFile()
	ts.Check(err)
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, file)
	ts.Check(err)
	ref, err := name.ParseReference(registry+"/hostile/"+args[0]+":1", name.Insecure)
	ts.Check(err)
	ts.Check(remote.Write(ref, img))
}

type layerWithDiffID struct {
	v1.Layer
	id v1.Hash
}

func (l layerWithDiffID) DiffID() (v1.Hash, error) { return l.id, nil }
