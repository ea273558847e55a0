// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

// labelRef is how a blob refers to another, for containerd's collector and ours.
const labelRef = "containerd.io/gc.ref.content."

// maxDepth bounds indexes of indexes.
const maxDepth = 4

// blobs are what is to be recorded, with the labels of each.
type blobs map[digest.Digest]content.Blob

func (b blobs) add(desc ocispec.Descriptor) {
	if _, ok := b[desc.Digest]; !ok {
		b[desc.Digest] = content.Blob{Digest: desc.Digest, Size: desc.Size, Labels: map[string]string{}}
	}
}

func (b blobs) refer(from digest.Digest, key string, to digest.Digest) {
	b[from].Labels[labelRef+key] = to.String()
}

// shelf is where the blobs of an image are.
type shelf interface {
	// may tells whether a blob is there and may be used.
	may(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	// read gives a document. One that may not be used is errdefs.ErrNotFound.
	read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error)
}

// gatherer finds out what of an image is there, and what of that is wanted.
type gatherer struct {
	from   shelf
	warn   func(string) // may be nil
	asIs   bool         // nothing is unpacked: a configuration that does not fit its manifest is kept like any other document
	blobs  blobs
	images []found
	seen   map[digest.Digest]bool
	lack   string // the first thing that was not there
	most   int64  // of the documents of images, in bytes, as they stay in memory; 0: any number
}

// found is a manifest of an image of this name.
type found struct {
	name string
	image.Manifest
}

func newGatherer(from shelf, warn func(string)) *gatherer {
	return &gatherer{from: from, warn: warn, blobs: blobs{}, seen: map[digest.Digest]bool{}}
}

// keep takes an image that was found.
func (g *gatherer) keep(img named, m image.Manifest) error {
	m.RawConfig = nil // which nobody asks for
	g.images = append(g.images, found{img.name, m})
	if g.most == 0 {
		return nil
	}
	if g.most -= m.Descriptor.Size + m.Manifest.Config.Size; g.most <= 0 {
		return malformed("the documents of its images are too large together")
	}
	return nil
}

func (g *gatherer) tell(img named, text string) {
	if g.warn != nil {
		g.warn(image.Familiar(img.name) + " " + text)
	}
}

// platform takes the manifest for one platform, whole. What is not there is errdefs.ErrNotFound.
func (g *gatherer) platform(ctx context.Context, img named, p ocispec.Platform) error {
	m, err := image.ResolveFrom(func(desc ocispec.Descriptor) ([]byte, error) { return g.from.read(ctx, desc) }, img.target, p)
	if err != nil {
		return err
	}
	if m.Odd != "" {
		g.tell(img, m.Odd)
	}
	whole, err := g.manifest(ctx, m.Descriptor, m.Manifest)
	if err != nil {
		return err
	}
	if !whole {
		return g.lacking()
	}
	for _, desc := range m.Indexes {
		if _, err := g.index(ctx, desc); err != nil {
			return err
		}
	}
	return g.keep(img, m)
}

// index records an index and says what it has.
func (g *gatherer) index(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	data, err := g.from.read(ctx, desc)
	if err != nil {
		return nil, err
	}
	x, err := image.ParseIndex(data, desc.MediaType)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	g.blobs.add(desc)
	for n, m := range x.Manifests {
		g.blobs.refer(desc.Digest, fmt.Sprintf("m.%d", n), m.Digest)
	}
	return x.Manifests, nil
}

// manifest records a manifest with what it refers to, and tells whether all of that is there. Where it is not,
// nothing of it is recorded.
func (g *gatherer) manifest(ctx context.Context, desc ocispec.Descriptor, m ocispec.Manifest) (bool, error) {
	for _, part := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		ok, err := g.from.may(ctx, part)
		if err != nil {
			return false, err
		}
		if !ok {
			g.miss(part, desc)
			return false, nil
		}
	}
	g.blobs.add(desc)
	g.blobs.add(m.Config)
	g.blobs.refer(desc.Digest, "config", m.Config.Digest)
	for n, l := range m.Layers {
		g.blobs.add(l)
		g.blobs.refer(desc.Digest, fmt.Sprintf("l.%d", n), l.Digest)
	}
	return true, nil
}

func (g *gatherer) miss(part, of ocispec.Descriptor) {
	if g.lack == "" {
		g.lack = fmt.Sprintf("blob %s, which %s names, is not there", part.Digest, of.Digest)
	}
}

// lacking is the error about what was not there, or nil.
func (g *gatherer) lacking() error {
	if g.lack == "" {
		return nil
	}
	return fmt.Errorf("%s: %w", g.lack, errdefs.ErrNotFound)
}

// whole takes all manifests of an image that are there with all their parts, artifacts and attestations too, and
// counts them.
func (g *gatherer) whole(ctx context.Context, img named) (int, error) {
	clear(g.seen)
	return g.below(ctx, img.target, nil, func(m image.Manifest) error { return g.keep(img, m) })
}

func (g *gatherer) below(ctx context.Context, desc ocispec.Descriptor, above []ocispec.Descriptor, is func(image.Manifest) error) (n int, err error) {
	if g.seen[desc.Digest] || !image.IsIndex(desc.MediaType) && !image.IsManifest(desc.MediaType) {
		return 0, nil
	}
	g.seen[desc.Digest] = true
	if len(above) > maxDepth {
		return 0, malformed("it has %d levels of indexes", len(above))
	}
	ok, err := g.from.may(ctx, desc)
	if err != nil {
		return 0, err
	}
	if !ok {
		if len(above) > 0 {
			g.miss(desc, above[len(above)-1])
		} else {
			g.lack = fmt.Sprintf("blob %s is not there", desc.Digest)
		}
		return 0, nil
	}
	if !image.IsIndex(desc.MediaType) {
		return g.one(ctx, desc, above, is)
	}
	all, err := g.index(ctx, desc)
	if err != nil {
		return 0, err
	}
	above = append(slices.Clip(above), desc)
	for _, m := range all {
		more, err := g.below(ctx, m, above, is)
		if err != nil {
			return n, err
		}
		n += more
	}
	return n, nil
}

// one takes a manifest, of an image or not.
func (g *gatherer) one(ctx context.Context, desc ocispec.Descriptor, above []ocispec.Descriptor, is func(image.Manifest) error) (int, error) {
	data, err := g.from.read(ctx, desc)
	if err != nil {
		return 0, err
	}
	m, err := image.ParseArtifact(data, desc.MediaType)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	whole, err := g.manifest(ctx, desc, m)
	if err != nil || !whole {
		return 0, err
	}
	full, err := image.Complete(image.Manifest{Indexes: above, Descriptor: desc}, func(desc ocispec.Descriptor) ([]byte, error) { return g.from.read(ctx, desc) })
	if errdefs.IsNotImplemented(err) || g.asIs && errdefs.IsFailedPrecondition(err) {
		return 1, nil
	}
	if err == nil && runnable(full) {
		err = is(full)
	}
	return 1, err
}

// runnable tells whether a manifest has a file tree for containers: no attestation, no other system's.
func runnable(m image.Manifest) bool {
	for _, l := range m.Manifest.Layers {
		if !strings.Contains(l.MediaType, ".tar") && !strings.Contains(l.MediaType, ".diff") {
			return false
		}
	}
	os := m.Config.OS
	return (os == "" || platforms.Normalize(m.Config.Platform).OS == "linux") && m.Config.Architecture != "unknown"
}

// record makes the blobs known to the namespace.
func (b blobs) record(tx *state.Tx, ns string) error {
	for _, dg := range slices.Sorted(maps.Keys(b)) {
		if err := content.Merge(tx, ns, b[dg]); err != nil {
			return err
		}
	}
	return nil
}
