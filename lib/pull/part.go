// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/mount"
)

// parsePlatforms reads the platforms that are asked for.
func (p *puller) parsePlatforms() error {
	asked := p.opt.Platforms
	if len(asked) == 0 {
		asked = []string{""}
	}
	for _, s := range asked {
		platform, err := image.ParsePlatform(s)
		if err != nil {
			return err
		}
		p.platforms = append(p.platforms, platform)
	}
	return nil
}

// parts finds out which manifests are brought, and puts all that they name on the lease. There is a puller for each.
func (p *puller) parts(ctx context.Context) ([]*puller, error) {
	all, err := p.manifests(ctx)
	if err != nil {
		return nil, blame(ctx, err)
	}
	var parts []*puller
	for _, m := range all {
		if m.Odd != "" {
			p.warn("%s: %s", p.ref, m.Odd)
		}
		q := p.part(m)
		if n := len(m.Manifest.Layers); n > mount.MaxLayers && !q.opt.NoUnpack {
			return nil, tooManyLayers(n)
		}
		if err := q.hold(ctx); err != nil {
			return nil, err
		}
		if q.labels, err = q.label(); err != nil {
			return nil, err
		}
		parts = append(parts, q)
	}
	return parts, nil
}

// manifests resolves the target, for all platforms or for each that is asked for.
func (p *puller) manifests(ctx context.Context) (all []image.Manifest, err error) {
	docs := map[digest.Digest][]byte{}
	read := func(desc ocispec.Descriptor) (data []byte, err error) {
		if data = docs[desc.Digest]; data == nil {
			data, err = p.document(ctx, desc)
			docs[desc.Digest] = data
		}
		return data, err
	}
	loose, err := p.loose(read)
	if err != nil {
		return nil, err
	}
	if p.opt.AllPlatforms {
		if all, err = image.Whole(read, p.target); err == nil {
			err = p.findOwn(read)
		}
	} else {
		all, err = p.perPlatform(read)
	}
	if errdefs.IsNotFound(err) && len(loose) > 0 {
		err = nil // it is without the image
	}
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if m.Artifact == "" {
			continue
		}
		// Of an image, the configuration has been read by now.
		if _, err := p.document(ctx, m.Manifest.Config); err != nil {
			return nil, err
		}
		if !p.opt.AllPlatforms && !p.opt.NoUnpack {
			p.warn("%s: it is of the type %q and no image: it is kept and not unpacked", p.ref, m.Artifact)
		}
	}
	return append(all, loose...), nil
}

// loose gives what an index of containerd's checkpoints names without a manifest, as a manifest without a configuration.
func (p *puller) loose(read func(ocispec.Descriptor) ([]byte, error)) ([]image.Manifest, error) {
	if !image.IsIndex(p.target.MediaType) {
		return nil, nil
	}
	data, err := read(p.target)
	if err != nil {
		return nil, err
	}
	index, err := image.ParseIndex(data, p.target.MediaType)
	if err != nil {
		return nil, err
	}
	parts := image.CheckpointParts(index)
	if len(parts) == 0 {
		return nil, nil
	}
	return []image.Manifest{{
		Indexes: []ocispec.Descriptor{p.target}, Descriptor: p.target, Manifest: ocispec.Manifest{Layers: parts}, Artifact: parts[0].MediaType,
	}}, nil
}

func (p *puller) perPlatform(read func(ocispec.Descriptor) ([]byte, error)) ([]image.Manifest, error) {
	var all []image.Manifest
	for _, platform := range p.platforms {
		m, err := image.OrArtifact(image.ResolveFrom(read, p.target, platform))
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// findOwn finds out which manifest is the best for this machine, if any is.
func (p *puller) findOwn(read func(ocispec.Descriptor) ([]byte, error)) error {
	m, err := image.OrArtifact(image.ResolveFrom(read, p.target, p.platforms[0]))
	if errdefs.IsNotFound(err) {
		return nil
	}
	p.own = m.Descriptor.Digest
	return err
}

// part makes the puller of one manifest. What is no image is not unpacked, and of all platforms only what is for
// this machine.
func (p *puller) part(m image.Manifest) *puller {
	q := *p
	q.image = m
	if m.Artifact != "" || p.opt.AllPlatforms && m.Descriptor.Digest != p.own {
		q.opt.NoUnpack = true
	}
	return &q
}

func (p *puller) warn(format string, args ...any) {
	if p.opt.Warn != nil {
		p.opt.Warn(fmt.Sprintf(format, args...))
	}
}

// discards tells whether the blobs of the layers are not kept.
func (p *puller) discards() bool { return p.opt.Discard && !p.opt.NoUnpack }
