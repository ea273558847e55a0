// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// bigImage is an image of a given size: a base, and layers of random files whose shares of all are given.
type bigImage struct {
	name   string
	shares []float64
	files  int
	bytes  int64
	zstd   bool // else gzip
}

// big1 is about what a language runtime with its packages is.
var big1 = bigImage{name: "big:1", shares: []float64{0.10, 0.25, 0.05, 0.40, 0.20}, files: 17000, bytes: 733 << 20}

// moreBig are for measuring: one layer, thirty layers, and layers that zstd compresses.
var moreBig = []bigImage{
	{name: "big-one:1", shares: []float64{1}, files: 6000, bytes: 256 << 20},
	{name: "big-many:1", shares: slices.Repeat([]float64{1.0 / 29}, 29), files: 9000, bytes: 384 << 20},
	{name: "big-zstd:1", shares: []float64{0.10, 0.25, 0.05, 0.40, 0.20}, files: 9000, bytes: 384 << 20, zstd: true},
}

func bigImages(_ context.Context, work string) ([]named, error) { return makeBig(work, big1) }

func moreBigImages(_ context.Context, work string) ([]named, error) { return makeBig(work, moreBig...) }

// makeBig makes images of layers of very different sizes, of files that compress to about a third. An image has its base as
// a layer of its own, unless it is to have one layer.
func makeBig(work string, all ...bigImage) (out []named, err error) {
	box, err := busybox()
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		dir := filepath.Join(work, strings.ReplaceAll(b.name, ":", "-"))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		var layers []v1.Layer
		var first []entry
		if base := append(skeleton(), box...); len(b.shares) == 1 {
			first = base
		} else {
			l, err := layer(dir, "base", "", base)
			if err != nil {
				return nil, err
			}
			layers = append(layers, l)
		}
		for i, share := range b.shares {
			l, err := randomLayer(dir, i+1, int(float64(b.files)*share), int64(float64(b.bytes)*share), b.zstd, first)
			if err != nil {
				return nil, err
			}
			layers = append(layers, l)
		}
		img, err := image(v1.Config{Cmd: []string{"sh"}, Env: []string{path}}, runtime.GOARCH, layers...)
		if err != nil {
			return nil, err
		}
		out = append(out, named{name: b.name, image: img})
	}
	return out, nil
}

// randomLayer writes entries, and files whose sizes spread over some orders of magnitude, in directories of a hundred.
func randomLayer(work string, n, files int, bytes int64, zstdLayer bool, first []entry) (v1.Layer, error) {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	sizes, sum := make([]float64, files), 0.0
	for i := range sizes {
		sizes[i] = r.ExpFloat64() * r.ExpFloat64()
		sum += sizes[i]
	}
	path := filepath.Join(work, fmt.Sprintf("big-%d.tar", n))
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var zw io.WriteCloser = gzip.NewWriter(f)
	mediaType := types.OCILayer
	if zstdLayer {
		mediaType = types.OCILayerZStd
		if zw, err = zstd.NewWriter(f); err != nil {
			return nil, err
		}
	}
	tw := tar.NewWriter(zw)
	for _, e := range first {
		if err := addEntry(tw, e); err != nil {
			return nil, err
		}
	}
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
	return tarball.LayerFromFile(path, tarball.WithMediaType(mediaType))
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
