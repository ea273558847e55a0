// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
)

// node is a manifest or an index that is pushed.
type node struct {
	desc     ocispec.Descriptor
	data     []byte
	subject  *ocispec.Descriptor // that a manifest names
	artifact string              // its artifact type
	notes    map[string]string   // its annotations
	children []*node             // pushed before it
}

// nodeID tells nodes apart. What a document is depends on its media type.
type nodeID struct {
	digest    digest.Digest
	mediaType string
}

// Bounds of what is read of an image.
const (
	maxDepth     = 4
	maxDocuments = 4096
)

// document is what indexes and manifests of all kinds have, as far as it matters to who pushes them.
type document struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Blobs        []ocispec.Descriptor `json:"blobs"` // of application/vnd.oci.artifact.manifest.v1+json
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
	FSLayers     []json.RawMessage    `json:"fsLayers"`
}

// parse reads a document and checks the descriptors in it. What is wrong is errdefs.ErrFailedPrecondition.
func parse(data []byte, desc ocispec.Descriptor) (document, error) {
	var m document
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("manifest %s: %w: %w", desc.Digest, err, errdefs.ErrFailedPrecondition)
	}
	if m.FSLayers != nil {
		return m, fmt.Errorf("manifest %s: docker schema 1 is not supported: %w", desc.Digest, errdefs.ErrNotImplemented)
	}
	all := slices.Concat(m.Manifests, m.Layers, m.Blobs)
	for _, one := range []*ocispec.Descriptor{m.Config, m.Subject} {
		if one != nil {
			all = append(all, *one)
		}
	}
	for _, d := range all {
		if err := d.Digest.Validate(); err != nil || d.Size < 0 {
			return m, fmt.Errorf("manifest %s: descriptor %q of %d bytes: %w", desc.Digest, d.Digest, d.Size, errdefs.ErrFailedPrecondition)
		}
	}
	return m, nil
}

// plan decides what is pushed.
func (p *pusher) plan(ctx context.Context) (*node, error) {
	if !image.IsIndex(p.image.Target.MediaType) {
		for _, want := range p.platforms {
			if _, err := image.Resolve(p.d, p.image.Target, want); err != nil {
				return nil, err
			}
		}
	}
	n, err := p.add(ctx, p.image.Target, 0)
	if errdefs.IsNotFound(err) && !isAbsent(err) {
		return nil, &MissingError{Image: p.image.Name, What: "manifest", Digest: p.image.Target.Digest, err: err}
	}
	if err != nil {
		return nil, err
	}
	digests := make([]string, 0, len(p.order))
	for _, b := range p.order {
		digests = append(digests, b.desc.Digest.String())
	}
	return n, p.lease.Hold(ctx, nil, lease.Content, digests...)
}

// add reads a document and all below it that is pushed. An index can list one document many times, and so can the indexes in
// it: each is read once.
func (p *pusher) add(ctx context.Context, desc ocispec.Descriptor, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%d levels of indexes: %w", depth, errdefs.ErrFailedPrecondition)
	}
	id := nodeID{desc.Digest, desc.MediaType}
	if n := p.nodes[id]; n != nil {
		return n, nil
	}
	n, err := p.node(ctx, desc, depth)
	if err == nil {
		p.nodes[id] = n
	}
	return n, err
}

func (p *pusher) node(ctx context.Context, desc ocispec.Descriptor, depth int) (*node, error) {
	data, err := p.read(ctx, desc)
	if err != nil {
		return nil, err
	}
	m, err := parse(data, desc)
	if err != nil {
		return nil, err
	}
	n := &node{desc: desc, data: data, subject: m.Subject, artifact: m.ArtifactType, notes: m.Annotations}
	n.desc.Size = int64(len(data))
	if !image.IsIndex(desc.MediaType) {
		if m.Config != nil {
			if n.artifact == "" {
				n.artifact = m.Config.MediaType
			}
			p.want(*m.Config)
		}
		for _, l := range append(m.Layers, m.Blobs...) {
			p.want(l)
		}
		return n, nil
	}
	return p.addIndex(ctx, n, m.Manifests, depth)
}

// addIndex chooses of an index what is pushed. An index stays as it is when all of it is here, or at the registry
// already. Of any other, and where platforms were named, what is chosen makes an index of its own; a single
// manifest goes without one.
func (p *pusher) addIndex(ctx context.Context, n *node, entries []ocispec.Descriptor, depth int) (*node, error) {
	if len(entries) > maxDocuments {
		return nil, fmt.Errorf("index %s has %d entries: %w", n.desc.Digest, len(entries), errdefs.ErrFailedPrecondition)
	}
	if loose := image.CheckpointParts(ocispec.Index{Manifests: entries}); len(loose) > 0 {
		return p.addCheckpoint(ctx, n, entries, loose, depth)
	}
	chosen, err := p.choose(entries)
	if err != nil {
		return nil, err
	}
	here, err := p.present(ctx, entries, chosen)
	if err != nil {
		return nil, err
	}
	var absent, gone []ocispec.Descriptor
	for i, e := range entries {
		if !here[i] {
			absent = append(absent, e)
			if chosen[i] {
				gone = append(gone, e)
			}
			continue
		}
		child, err := p.add(ctx, e, depth+1)
		if err != nil {
			return nil, err
		}
		// What became of an index within is another document than the one that this index names.
		if child.desc.Digest != e.Digest {
			return nil, fmt.Errorf("index %s is here in part only, and lies in another one: %w", e.Digest, errdefs.ErrFailedPrecondition)
		}
		n.children = append(n.children, child)
	}
	if len(p.platforms) > 0 {
		if len(gone) > 0 {
			return nil, p.missing(gone)
		}
		return p.reduce(n, here)
	}
	missing, err := p.elsewhere(ctx, absent)
	if err != nil || len(missing) == 0 {
		return n, err
	}
	if p.opt.AllPlatforms || p.to.Digest == n.desc.Digest || len(n.children) == 0 {
		return nil, p.missing(missing)
	}
	if p.opt.Warn != nil {
		p.opt.Warn(fmt.Sprintf("%s: of the index's %d manifests %d are here: only these are pushed, so the digest differs",
			p.image.Name, len(entries), len(n.children)))
	}
	return p.reduce(n, here)
}

// addCheckpoint pushes all that an index of one of containerd's checkpoints names: it says nothing of platforms, and its
// blobs are entries of its own.
func (p *pusher) addCheckpoint(ctx context.Context, n *node, entries, loose []ocispec.Descriptor, depth int) (*node, error) {
	for _, e := range entries {
		if slices.ContainsFunc(loose, func(d ocispec.Descriptor) bool { return d.Digest == e.Digest }) {
			p.want(e)
			continue
		}
		child, err := p.add(ctx, e, depth+1)
		if err != nil {
			return nil, err
		}
		if child.desc.Digest != e.Digest {
			return nil, fmt.Errorf("image %s of a checkpoint is here in part only: %w", e.Digest, errdefs.ErrFailedPrecondition)
		}
		n.children = append(n.children, child)
	}
	return n, nil
}

func (p *pusher) missing(entries []ocispec.Descriptor) error {
	return &MissingError{Image: p.image.Name, What: "manifest for " + names(entries), Digest: entries[0].Digest}
}

// choose marks the entries of the wanted platforms.
func (p *pusher) choose(entries []ocispec.Descriptor) ([]bool, error) {
	chosen := make([]bool, len(entries))
	if len(p.platforms) == 0 {
		for i := range chosen {
			chosen[i] = true
		}
		return chosen, nil
	}
	for _, want := range p.platforms {
		match, found := platforms.OnlyStrict(want), false
		for i, e := range entries {
			if e.Platform != nil && match.Match(platforms.Normalize(*e.Platform)) {
				chosen[i], found = true, true
			}
		}
		if !found {
			return nil, &absentError{fmt.Errorf("image for platform %s (there is %s): %w", platforms.Format(want), names(entries), errdefs.ErrNotFound)}
		}
	}
	return chosen, nil
}

// present marks the chosen entries that are in the store: those of which every blob is, and where there are none
// those of which some is. So a manifest that an interrupted pull of another platform has left does not count, and
// an image whose layers were discarded after they were unpacked does.
func (p *pusher) present(ctx context.Context, entries []ocispec.Descriptor, chosen []bool) ([]bool, error) {
	whole, part := make([]bool, len(entries)), make([]bool, len(entries))
	for i, e := range entries {
		if !chosen[i] {
			continue
		}
		found, missing, err := p.count(ctx, e)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		whole[i], part[i] = missing == 0, missing == 0 || found > 0 || len(p.platforms) > 0
	}
	if len(p.platforms) == 0 && slices.Contains(whole, true) {
		return whole, nil
	}
	return part, nil
}

// count counts the blobs of a manifest that are in the store and those that are not. One that is not there itself
// is errdefs.ErrNotFound.
func (p *pusher) count(ctx context.Context, desc ocispec.Descriptor) (found, missing int, err error) {
	data, err := p.read(ctx, desc)
	if err != nil {
		return 0, 0, err
	}
	m, err := parse(data, desc)
	if err != nil {
		return 0, 0, err
	}
	all := append(m.Layers, m.Blobs...)
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	var digests []digest.Digest
	var names []string
	for _, d := range all {
		digests, names = append(digests, d.Digest), append(names, d.Digest.String())
	}
	if err := p.lease.Hold(ctx, nil, lease.Content, names...); err != nil {
		return 0, 0, err
	}
	own, err := p.owns(ctx, digests...)
	if err != nil {
		return 0, 0, err
	}
	for _, d := range all {
		if _, err := os.Stat(content.Path(p.d, d.Digest)); err == nil && own[d.Digest] || p.skips(d) {
			found++
		} else {
			missing++
		}
	}
	return found, missing, nil
}

// elsewhere gives those manifests that the repository does not have either.
func (p *pusher) elsewhere(ctx context.Context, absent []ocispec.Descriptor) (missing []ocispec.Descriptor, err error) {
	for _, desc := range absent {
		has, err := p.dest.HasManifest(ctx, desc, "")
		if err != nil {
			return nil, err
		}
		if !has {
			missing = append(missing, desc)
		}
	}
	return missing, nil
}

// reduce makes of an index one of fewer entries. All else that it says stays.
func (p *pusher) reduce(n *node, keep []bool) (*node, error) {
	switch {
	case !slices.Contains(keep, false):
		return n, nil
	case len(n.children) == 1:
		return n.children[0], nil
	}
	var whole map[string]json.RawMessage
	var entries, kept []json.RawMessage
	err := json.Unmarshal(n.data, &whole)
	if err == nil {
		err = json.Unmarshal(whole["manifests"], &entries)
	}
	if err != nil {
		return nil, fmt.Errorf("index %s: %w: %w", n.desc.Digest, err, errdefs.ErrFailedPrecondition)
	}
	for i, e := range entries {
		if keep[i] {
			kept = append(kept, e)
		}
	}
	if whole["manifests"], err = json.Marshal(kept); err != nil {
		return nil, err
	}
	data, err := json.Marshal(whole)
	if err != nil {
		return nil, err
	}
	less := *n
	less.data = data
	less.desc = ocispec.Descriptor{MediaType: n.desc.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return &less, nil
}

// names lists the platforms of entries, or their digests where they name none.
func names(entries []ocispec.Descriptor) string {
	var list []string
	for _, e := range entries {
		s := e.Digest.String()
		if e.Platform != nil && e.Platform.OS != "unknown" {
			s = platforms.Format(*e.Platform)
		}
		if len(s) > 100 {
			s = s[:100] + "..."
		}
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		return "none at all"
	}
	if n := len(list); n > 16 {
		list = append(list[:16], fmt.Sprintf("%d others", n-16))
	}
	return strings.Join(list, ", ")
}
