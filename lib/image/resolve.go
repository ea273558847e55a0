// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/state"
)

// Manifest is an image of one platform.
type Manifest struct {
	// Indexes are the indexes that led here, the target first; none when the target is a manifest.
	Indexes    []ocispec.Descriptor
	Descriptor ocispec.Descriptor // of the manifest
	Manifest   ocispec.Manifest
	Config     ocispec.Image
	RawConfig  []byte // of which Config has only what OCI defines
	ChainIDs   []digest.Digest
	// Odd is what the user should know of the image, or empty.
	Odd string
	// Artifact is what the manifest is of when that is no image, or empty; see [Whole].
	Artifact string
}

// asArtifact leaves of what was read of a manifest what counts of no image.
func (m Manifest) asArtifact(e *ArtifactError) Manifest {
	return Manifest{Indexes: m.Indexes, Descriptor: m.Descriptor, Manifest: m.Manifest, Artifact: e.Type}
}

// OrArtifact takes what [ResolveFrom] gave: of no image it makes a Manifest as [Whole] gives it.
func OrArtifact(m Manifest, err error) (Manifest, error) {
	var artifact *ArtifactError
	if errors.As(err, &artifact) {
		return m.asArtifact(artifact), nil
	}
	return m, err
}

// maxDepth bounds indexes of indexes.
const maxDepth = 4

// ParsePlatform reads os/architecture[/variant]; empty is this machine's platform.
func ParsePlatform(s string) (ocispec.Platform, error) {
	if s == "" {
		return platforms.DefaultSpec(), nil
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return p, fmt.Errorf("%s: %w", strings.TrimSuffix(err.Error(), ": invalid argument"), errdefs.ErrInvalidArgument)
	}
	return platforms.Normalize(p), nil
}

// Resolve reads from the content store what target stands for on a platform. A platform that the image
// does not have is errdefs.ErrNotFound, and so is a blob that is not there.
func Resolve(d *state.Dir, target ocispec.Descriptor, platform ocispec.Platform) (Manifest, error) {
	return ResolveFrom(func(desc ocispec.Descriptor) ([]byte, error) {
		return content.ReadAll(d, desc, MaxManifest)
	}, target, platform)
}

// maxPresent bounds the documents that Present reads, in bytes.
const maxPresent = 4 * MaxManifest

// Present gives what of an image is in the content store: the manifest of each platform whose manifest
// and configuration are there, once, in the order of the index. Layers are not looked for. Documents of
// more than 64 MiB together are errdefs.ErrFailedPrecondition, beside what of them was read.
func Present(d *state.Dir, target ocispec.Descriptor) ([]Manifest, error) {
	p := inStore(d)
	err := p.add(target, nil)
	return p.all, err
}

// inStore is about what the content store has.
func inStore(d *state.Dir) presence {
	read := func(desc ocispec.Descriptor) ([]byte, error) { return content.ReadAll(d, desc, MaxManifest) }
	return presence{from: read, partial: true, seen: map[digest.Digest]bool{}}
}

// Whole gives every manifest that a target leads to, once, in the order of the index. One of no image has neither
// configuration nor chain ids, and says with Artifact what it is of. read is as in [ResolveFrom], and its errors
// are the caller's, also that something is not there.
func Whole(read func(ocispec.Descriptor) ([]byte, error), target ocispec.Descriptor) ([]Manifest, error) {
	p := presence{from: read, seen: map[digest.Digest]bool{}}
	err := p.add(target, nil)
	return p.all, err
}

// presence is what Present or Whole has found so far. An index can list one document many times, and so can the
// indexes in it: each is looked at once.
type presence struct {
	from    func(ocispec.Descriptor) ([]byte, error)
	partial bool // what is not there, or no image, is passed over
	seen    map[digest.Digest]bool
	size    int
	all     []Manifest
}

func (p *presence) read(desc ocispec.Descriptor) ([]byte, error) {
	data, err := p.from(desc)
	if p.size += len(data); p.size > maxPresent {
		return nil, damaged("image", "its documents are larger than %d bytes", maxPresent)
	}
	return data, err
}

func (p *presence) add(desc ocispec.Descriptor, indexes []ocispec.Descriptor) error {
	if len(indexes) > maxDepth {
		return damaged("index", "%d levels of indexes", maxDepth)
	}
	if !IsIndex(desc.MediaType) && !IsManifest(desc.MediaType) || p.seen[desc.Digest] {
		return nil
	}
	p.seen[desc.Digest] = true
	if !IsIndex(desc.MediaType) {
		m, err := Complete(Manifest{Indexes: indexes, Descriptor: desc}, p.read)
		var artifact *ArtifactError
		switch {
		case p.partial && (errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err)):
			return nil
		case errors.As(err, &artifact):
			m, err = m.asArtifact(artifact), nil
		}
		if err == nil {
			p.all = append(p.all, m)
		}
		return err
	}
	data, err := p.read(desc)
	if p.partial && errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	x, err := ParseIndex(data, desc.MediaType)
	if err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	indexes = append(slices.Clip(indexes), desc)
	for _, m := range x.Manifests {
		if err := p.add(m, indexes); err != nil {
			return err
		}
	}
	return nil
}

// Platform is what the configuration says the image is for, as os/architecture[/variant].
func (m Manifest) Platform() string { return platforms.Format(platforms.Normalize(m.Config.Platform)) }

// Size is what the image takes in the registry, in bytes: manifest, configuration and layers.
func (m Manifest) Size() int64 {
	n := m.Descriptor.Size + m.Manifest.Config.Size
	for _, l := range m.Manifest.Layers {
		n += l.Size
	}
	return n
}

// ResolveFrom is Resolve with documents from elsewhere: read must check what it gives against the
// descriptor's digest.
func ResolveFrom(read func(ocispec.Descriptor) ([]byte, error), target ocispec.Descriptor, platform ocispec.Platform) (Manifest, error) {
	var m Manifest
	match := platforms.Only(platform)
	desc := target
	for IsIndex(desc.MediaType) {
		if len(m.Indexes) == maxDepth {
			return m, damaged("index", "%d levels of indexes", maxDepth)
		}
		data, err := read(desc)
		if err != nil {
			return m, err
		}
		x, err := ParseIndex(data, desc.MediaType)
		if err != nil {
			return m, fmt.Errorf("%s: %w", desc.Digest, err)
		}
		m.Indexes = append(m.Indexes, desc)
		if desc, err = choose(x, match, platform); err != nil {
			return m, err
		}
	}
	m.Descriptor = desc
	m, err := Complete(m, read)
	if err != nil {
		return m, err
	}
	if has := m.Config.Platform; has.Architecture != "" && has.OS != "" && !match.Match(platforms.Normalize(has)) {
		if desc.Platform == nil || len(m.Indexes) == 0 {
			return m, absent(platform, []ocispec.Platform{has})
		}
		// The index decides where it speaks: builders forget to write the platform into the configuration.
		m.Odd = fmt.Sprintf("the index says that the image is for %s, its configuration says %s",
			short(platforms.Format(*desc.Platform)), short(platforms.Format(has)))
	}
	return m, nil
}

// Complete reads what the descriptor of a manifest leads to: the manifest and its configuration. read must check what
// it gives against the descriptor's digest. What is no image is errdefs.ErrNotImplemented.
func Complete(m Manifest, read func(ocispec.Descriptor) ([]byte, error)) (Manifest, error) {
	desc := m.Descriptor
	if !IsManifest(desc.MediaType) {
		return m, fmt.Errorf("%s: media type %q is no image: %w", desc.Digest, short(desc.MediaType), errdefs.ErrNotImplemented)
	}
	data, err := read(desc)
	if err != nil {
		return m, err
	}
	if m.Manifest, err = ParseManifest(data, desc.MediaType); err != nil {
		return m, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	if m.RawConfig, err = read(m.Manifest.Config); err != nil {
		return m, err
	}
	m.Config, err = ParseConfig(m.RawConfig, len(m.Manifest.Layers))
	if err != nil && !IsConfig(m.Manifest.Config.MediaType) {
		return m, fmt.Errorf("%s: %w", desc.Digest, noImage(m.Manifest))
	}
	if err != nil {
		return m, fmt.Errorf("%s: %w", m.Manifest.Config.Digest, err)
	}
	m.ChainIDs = ChainIDs(m.Config.RootFS.DiffIDs)
	return m, nil
}

// choose picks the entry of an index that suits best. Entries that name no platform come last: only
// their configuration will tell.
func choose(x ocispec.Index, match platforms.MatchComparer, platform ocispec.Platform) (ocispec.Descriptor, error) {
	var suit, open []ocispec.Descriptor
	var there []ocispec.Platform
	for _, m := range x.Manifests {
		switch {
		case !IsIndex(m.MediaType) && !IsManifest(m.MediaType):
		case m.Platform == nil:
			open = append(open, m)
		case match.Match(platforms.Normalize(*m.Platform)):
			suit = append(suit, m)
		default:
			there = append(there, *m.Platform)
		}
	}
	if len(suit) > 0 {
		slices.SortStableFunc(suit, func(a, b ocispec.Descriptor) int {
			switch pa, pb := platforms.Normalize(*a.Platform), platforms.Normalize(*b.Platform); {
			case match.Less(pa, pb):
				return -1
			case match.Less(pb, pa):
				return 1
			}
			return 0
		})
		return suit[0], nil
	}
	if len(open) > 0 {
		return open[0], nil
	}
	return ocispec.Descriptor{}, absent(platform, there)
}

// absent is the error about a platform that the image does not have.
func absent(want ocispec.Platform, there []ocispec.Platform) error {
	var list []string
	for _, p := range there {
		if s := platforms.Format(p); p.OS != "unknown" && !slices.Contains(list, s) {
			list = append(list, short(s))
		}
	}
	text := "none at all"
	if len(list) > 0 {
		text = strings.Join(list[:min(len(list), 16)], ", ")
	}
	return fmt.Errorf("image for platform %s (there is %s): %w", platforms.Format(want), text, errdefs.ErrNotFound)
}
