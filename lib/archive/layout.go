// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/progress"
)

// writer is where the files of an archive go, in the order of their names.
type writer interface {
	dir(name string) error
	file(name string, size int64, r io.Reader) error
}

// layout writes an OCI image layout.
func (s *shipment) layout(ctx context.Context, w writer) error {
	if err := w.dir(blobsDir); err != nil {
		return err
	}
	alg := digest.Algorithm("")
	for _, dg := range slices.SortedFunc(maps.Keys(s.blobs), func(a, b digest.Digest) int { return bytes.Compare([]byte(a), []byte(b)) }) {
		if dg.Algorithm() != alg {
			alg = dg.Algorithm()
			if err := w.dir(blobsDir + "/" + alg.String()); err != nil {
				return err
			}
		}
		if err := s.blob(ctx, w, blobsDir+"/"+alg.String()+"/"+dg.Encoded(), dg); err != nil {
			return err
		}
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, img := range s.all {
		desc := ocispec.Descriptor{MediaType: img.target.MediaType, Digest: img.target.Digest, Size: img.target.Size}
		desc.Annotations = map[string]string{AnnotationName: img.name}
		if ref, err := image.Parse(img.name); err == nil && ref.Tag != "" {
			desc.Annotations[ocispec.AnnotationRefName] = ref.Tag
		}
		index.Manifests = append(index.Manifests, desc)
	}
	if err := writeJSON(w, indexFile, index); err != nil {
		return err
	}
	if !s.opt.NoManifest {
		path := func(dg digest.Digest) string { return blobsDir + "/" + dg.Algorithm().String() + "/" + dg.Encoded() }
		if err := writeJSON(w, manifestFile, s.saved(path, func(m found, n int) string { return path(m.Manifest.Manifest.Layers[n].Digest) })); err != nil {
			return err
		}
	}
	return writeJSON(w, layoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// saved describes the images as manifest.json does. config and layer name files.
func (s *shipment) saved(config func(digest.Digest) string, layer func(found, int) string) []saved {
	all := []saved{}
	at := map[digest.Digest]int{}
	for _, m := range s.chosen() {
		n, again := at[m.Descriptor.Digest]
		if !again {
			n = len(all)
			at[m.Descriptor.Digest] = n
			it := saved{Config: config(m.Manifest.Manifest.Config.Digest), RepoTags: []string{}, Layers: []string{}}
			for i := range m.Manifest.Manifest.Layers {
				it.Layers = append(it.Layers, layer(m, i))
			}
			all = append(all, it)
		}
		if ref, err := image.Parse(m.name); err == nil && ref.Tag != "" {
			ref.Digest = ""
			all[n].RepoTags = append(all[n].RepoTags, ref.Familiar())
		}
	}
	return all
}

func writeJSON(w writer, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.file(name, int64(len(data)), bytes.NewReader(data))
}

// blob writes a blob, and checks it meanwhile.
func (s *shipment) blob(ctx context.Context, w writer, name string, dg digest.Digest) (err error) {
	f, err := content.Open(s.d, dg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := dg.Algorithm().Hash()
	desc := ocispec.Descriptor{Digest: dg, Size: s.blobs[dg].Size}
	data := &metered{&cancelled{ctx, f}, s.report.Meter(desc, progress.Copying, 0)}
	if err := w.file(name, desc.Size, io.TeeReader(data, sum)); err != nil {
		return fmt.Errorf("content %q: %w", dg, err)
	}
	if got := digest.NewDigest(dg.Algorithm(), sum); got != dg {
		return fmt.Errorf("content %q: the file has digest %s: %w", dg, got, errdefs.ErrDataLoss)
	}
	s.report.Send(desc, progress.Done, desc.Size)
	return nil
}

// cancelled is a reader that ends with a context.
type cancelled struct {
	ctx context.Context
	io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.Reader.Read(p)
}

// docker writes a docker-archive: each configuration, each layer without compression, and what names them.
func (s *shipment) docker(ctx context.Context, w writer) error {
	files := map[string]func(name string) error{}
	config := func(dg digest.Digest) string { return dg.Encoded() + ".json" }
	tarOf := func(m found, n int) string { return m.Config.RootFS.DiffIDs[n].Encoded() + ".tar" }
	for _, m := range s.chosen() {
		if !runnable(m.Manifest) {
			return fmt.Errorf("%s is no image with layers: %w", image.Familiar(m.name), errdefs.ErrNotImplemented)
		}
		desc := m.Manifest.Manifest.Config
		files[config(desc.Digest)] = func(name string) error { return s.blob(ctx, w, name, desc.Digest) }
		for n, l := range m.Manifest.Manifest.Layers {
			diffID := m.Config.RootFS.DiffIDs[n]
			files[tarOf(m, n)] = func(name string) error { return s.plain(ctx, w, name, l, diffID) }
		}
	}
	if len(files) == 0 {
		return fmt.Errorf("there is no image with layers: %w", errdefs.ErrNotFound)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := files[name](name); err != nil {
			return err
		}
	}
	return writeJSON(w, manifestFile, s.saved(config, tarOf))
}

// plain writes the tar of a layer. A tar's header has the size, so a layer is read twice.
func (s *shipment) plain(ctx context.Context, w writer, name string, l ocispec.Descriptor, diffID digest.Digest) error {
	var size int64
	sum := digest.SHA256.Digester()
	err := s.unpacked(ctx, l, func(r io.Reader) (err error) {
		size, err = io.Copy(sum.Hash(), r)
		return err
	})
	if err == nil && sum.Digest() != diffID {
		err = fmt.Errorf("it unpacks to diff id %s instead of %s: %w", sum.Digest(), diffID, errdefs.ErrDataLoss)
	}
	if err == nil {
		err = s.unpacked(ctx, l, func(r io.Reader) error { return w.file(name, size, r) })
	}
	if err != nil {
		return fmt.Errorf("layer %.12s: %w", l.Digest.Encoded(), err)
	}
	return nil
}

func (s *shipment) unpacked(ctx context.Context, l ocispec.Descriptor, fn func(io.Reader) error) (err error) {
	f, err := content.Open(s.d, l.Digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, err := layer.Decompress(&cancelled{ctx, f}, l.MediaType)
	if err != nil {
		return err
	}
	return errors.Join(fn(r), r.Close())
}
