// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The big image: about what a language runtime with its packages is.
const (
	bigLayers = 6
	bigFiles  = 17000
	bigBytes  = 733 << 20
)

// bigImages makes layers of very different sizes, of files that compress to about a third.
func bigImages(_ context.Context, work string) ([]named, error) {
	box, err := busybox()
	if err != nil {
		return nil, err
	}
	base, err := layer(work, "base", "", append(skeleton(), box...))
	if err != nil {
		return nil, err
	}
	layers := []v1.Layer{base}
	for i, share := range []float64{0.10, 0.25, 0.05, 0.40, 0.20} {
		l, err := randomLayer(work, i+1, int(bigFiles*share), int64(float64(bigBytes)*share))
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	img, err := image(v1.Config{Cmd: []string{"sh"}, Env: []string{path}}, runtime.GOARCH, layers...)
	if err == nil && len(layers) != bigLayers {
		err = errors.New("the number of layers is wrong")
	}
	return []named{{name: "big:1", image: img}}, err
}

// randomLayer writes files whose sizes spread over some orders of magnitude, in directories of a hundred.
func randomLayer(work string, n, files int, bytes int64) (v1.Layer, error) {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	sizes, sum := make([]float64, files), 0.0
	for i := range sizes {
		sizes[i] = r.ExpFloat64() * r.ExpFloat64()
		sum += sizes[i]
	}
	path := filepath.Join(work, fmt.Sprintf("big-%d.tar.gz", n))
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zw := gzip.NewWriter(f)
	tw := tar.NewWriter(zw)
	var buf []byte
	for i, s := range sizes {
		dir := fmt.Sprintf("opt/layer%d/%02d", n, i/100)
		if i%100 == 0 {
			err = errors.Join(err, addEntry(tw, entry{path: dir, mode: 0o755, dir: true}))
		}
		size := int64(s / sum * float64(bytes))
		buf = filler(r, buf[:0], size)
		h := &tar.Header{Name: fmt.Sprintf("%s/file%05d", dir, i), Mode: 0o644, ModTime: stamp, Typeflag: tar.TypeReg, Size: size}
		if err = errors.Join(err, tw.WriteHeader(h)); err == nil {
			_, err = tw.Write(buf)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := errors.Join(tw.Close(), zw.Close(), f.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
}

// filler appends size bytes: stretches of noise among stretches of words.
func filler(r *rand.Rand, buf []byte, size int64) []byte {
	words := []string{"layer", "snapshot", "container", "return", "error", "func", "package", "import", "string", "struct"}
	for int64(len(buf)) < size {
		if r.IntN(100) < 24 {
			for range 16 {
				v := r.Uint64()
				for range 8 {
					buf = append(buf, byte(v))
					v >>= 8
				}
			}
			continue
		}
		for range 16 {
			buf = append(buf, words[r.IntN(len(words))]...)
			buf = append(buf, ' ')
		}
	}
	return buf[:size]
}
