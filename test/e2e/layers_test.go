// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strconv"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"
)

// layers N... pushes images of N layers as $REGISTRY/layers/N:1: busybox, and above it layers with the file
// /layer, which has the number of its layer.
func layers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: layers N...")
	}
	for _, arg := range args {
		n, err := strconv.Atoi(arg)
		ts.Check(err)
		from, err := name.ParseReference(registry + "/busybox:1")
		ts.Check(err)
		img, err := remote.Image(from)
		ts.Check(err)
		below, err := img.Layers()
		ts.Check(err)
		var above []v1.Layer
		for i := len(below) + 1; i <= n; i++ {
			above = append(above, static.NewLayer(numbered(ts, i), types.DockerUncompressedLayer))
		}
		img, err = mutate.AppendLayers(img, above...)
		ts.Check(err)
		to, err := name.ParseReference(registry + "/layers/" + arg + ":1")
		ts.Check(err)
		ts.Check(remote.Write(to, img))
	}
}

// numbered is a layer with the file /layer.
func numbered(ts *testscript.TestScript, n int) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := fmt.Sprintln(n)
	ts.Check(w.WriteHeader(&tar.Header{Name: "layer", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}))
	_, err := w.Write([]byte(text))
	ts.Check(err)
	ts.Check(w.Close())
	return b.Bytes()
}
