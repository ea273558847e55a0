// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"context"
	"errors"
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

// gatherer finds out what of an image an archive has, and what of that is wanted.
type gatherer struct {
	in     *intake
	opt    ImportOptions
	blobs  blobs
	unpack []found // what is to be unpacked
	seen   map[digest.Digest]bool
	lack   string // the first thing that was not there
}

// found is a manifest of an image of this name.
type found struct {
	name string
	image.Manifest
}

func newGatherer(in *intake, opt ImportOptions) *gatherer {
	return &gatherer{in: in, opt: opt, blobs: blobs{}, seen: map[digest.Digest]bool{}}
}

// gather takes an image. Of one for several platforms those count that the options say; others may be missing.
func (g *gatherer) gather(ctx context.Context, img named) error {
	g.lack = ""
	err := g.chosen(ctx, img)
	if err != nil && (errdefs.IsFailedPrecondition(err) || errdefs.IsInvalidArgument(err)) && !isFormat(err) {
		err = &FormatError{err}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", image.Familiar(img.name), err)
	}
	return nil
}

func (g *gatherer) chosen(ctx context.Context, img named) error {
	wanted := g.opt.Platforms
	if len(wanted) == 0 && !g.opt.AllPlatforms {
		host, err := image.ParsePlatform("")
		if err != nil {
			return err
		}
		err = g.platform(ctx, img, host)
		if !errdefs.IsNotFound(err) && !errdefs.IsNotImplemented(err) {
			return err
		}
		// As docker load takes it: what there is, although it cannot run here.
		n, err2 := g.whole(ctx, img.target, nil)
		if err2 != nil || n == 0 {
			return errors.Join(err2, g.nothing(err))
		}
		g.warn(img, fmt.Sprintf("is not unpacked: %v", err))
		return nil
	}
	for _, p := range wanted {
		if err := g.platform(ctx, img, p); err != nil {
			return err
		}
	}
	if !g.opt.AllPlatforms {
		return nil
	}
	before := len(g.unpack)
	n, err := g.whole(ctx, img.target, func(m image.Manifest) { g.unpack = append(g.unpack, found{img.name, m}) })
	if err != nil {
		return err
	}
	if n == 0 {
		return g.nothing(nil)
	}
	if len(g.unpack) == before && !g.opt.NoUnpack {
		g.warn(img, "has nothing to unpack")
	}
	return nil
}

func (g *gatherer) warn(img named, text string) {
	if g.opt.Warn != nil {
		g.opt.Warn(image.Familiar(img.name) + " " + text)
	}
}

// nothing is the error about an image of which nothing is there, or err.
func (g *gatherer) nothing(err error) error {
	switch {
	case g.lack != "":
		return malformed("%s", g.lack)
	case err != nil:
		return err
	}
	return malformed("the archive has nothing of it")
}

// platform takes the manifest for one platform, whole.
func (g *gatherer) platform(ctx context.Context, img named, p ocispec.Platform) error {
	m, err := image.ResolveFrom(func(desc ocispec.Descriptor) ([]byte, error) { return g.in.read(ctx, desc) }, img.target, p)
	if err != nil {
		return err
	}
	if m.Odd != "" {
		g.warn(img, m.Odd)
	}
	whole, err := g.manifest(ctx, m.Descriptor, m.Manifest)
	if err != nil {
		return err
	}
	if !whole {
		return g.nothing(nil)
	}
	for _, desc := range m.Indexes {
		if _, err := g.index(ctx, desc); err != nil {
			return err
		}
	}
	g.unpack = append(g.unpack, found{img.name, m})
	return nil
}

// index records an index and says what it has.
func (g *gatherer) index(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	data, err := g.in.read(ctx, desc)
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
		ok, err := g.in.may(ctx, part)
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
		g.lack = fmt.Sprintf("blob %s, which %s names, is not in the archive", part.Digest, of.Digest)
	}
}

// whole takes all manifests below a descriptor that are there with all their parts, artifacts and attestations
// too, and counts them. image, if any, is told those that a container can be made of.
func (g *gatherer) whole(ctx context.Context, target ocispec.Descriptor, is func(image.Manifest)) (int, error) {
	clear(g.seen)
	return g.below(ctx, target, nil, is)
}

func (g *gatherer) below(ctx context.Context, desc ocispec.Descriptor, above []ocispec.Descriptor, is func(image.Manifest)) (n int, err error) {
	if g.seen[desc.Digest] || !image.IsIndex(desc.MediaType) && !image.IsManifest(desc.MediaType) {
		return 0, nil
	}
	g.seen[desc.Digest] = true
	if len(above) > maxDepth {
		return 0, malformed("it has %d levels of indexes", len(above))
	}
	ok, err := g.in.may(ctx, desc)
	if err != nil {
		return 0, err
	}
	if !ok {
		if len(above) > 0 {
			g.miss(desc, above[len(above)-1])
		} else {
			g.miss(desc, ocispec.Descriptor{Digest: indexFile})
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
func (g *gatherer) one(ctx context.Context, desc ocispec.Descriptor, above []ocispec.Descriptor, is func(image.Manifest)) (int, error) {
	data, err := g.in.read(ctx, desc)
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
	if is == nil {
		return 1, nil
	}
	full, err := image.Complete(image.Manifest{Indexes: above, Descriptor: desc}, func(desc ocispec.Descriptor) ([]byte, error) { return g.in.read(ctx, desc) })
	if errdefs.IsNotImplemented(err) {
		return 1, nil
	}
	if err == nil && runnable(full) {
		is(full)
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
