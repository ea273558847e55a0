// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/progress"
)

// putManifests writes the manifests below a node and then the node itself, which gets the tag.
func (p *pusher) putManifests(ctx context.Context, top *node) error {
	done := map[digest.Digest]bool{}
	for _, c := range top.children {
		if err := p.putTree(ctx, c, done); err != nil {
			return err
		}
	}
	return p.putManifest(ctx, top, p.to.Tag)
}

func (p *pusher) putTree(ctx context.Context, n *node, done map[digest.Digest]bool) error {
	if done[n.desc.Digest] {
		return nil
	}
	done[n.desc.Digest] = true
	for _, c := range n.children {
		if err := p.putTree(ctx, c, done); err != nil {
			return err
		}
	}
	return p.putManifest(ctx, n, "")
}

func (p *pusher) putManifest(ctx context.Context, n *node, tag string) error {
	has, err := p.dest.HasManifest(ctx, n.desc, tag)
	if err != nil {
		return err
	}
	if has && n.subject == nil {
		p.report.Send(n.desc, progress.Exists, n.desc.Size)
		return nil
	}
	if has {
		tag = "" // it stands for it. Only the answer to a put tells whether the manifest must be listed, which a kill can have prevented.
	}
	p.report.Send(n.desc, progress.Uploading, 0)
	taken, err := p.dest.PutManifest(ctx, n.desc, n.data, tag)
	if err != nil {
		return err
	}
	crash.Point("push.manifest-put")
	if n.subject != nil && taken.Subject == "" {
		if err := p.refer(ctx, n); err != nil {
			return fmt.Errorf("referrers of %s: %w", n.subject.Digest, err)
		}
	}
	p.report.Send(n.desc, progress.Done, n.desc.Size)
	return nil
}

// refer lists a manifest among those that refer to its subject, for a registry that does not do so itself: in an
// index under a tag that is made of the subject's digest (OCI distribution specification, "Referrers Tag Schema").
func (p *pusher) refer(ctx context.Context, n *node) error {
	tag := strings.Replace(n.subject.Digest.String(), ":", "-", 1)
	if len(tag) > 128 {
		return nil // no tag can say it
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	desc, data, err := p.dest.Tagged(ctx, tag)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err == nil {
		if err := json.Unmarshal(data, &index); err != nil || desc.MediaType != ocispec.MediaTypeImageIndex {
			return fmt.Errorf("the tag %q is no index of referrers: %w", tag, errdefs.ErrFailedPrecondition)
		}
	}
	if slices.ContainsFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == n.desc.Digest }) {
		return nil
	}
	entry := ocispec.Descriptor{MediaType: n.desc.MediaType, Digest: n.desc.Digest, Size: n.desc.Size, ArtifactType: n.artifact, Annotations: n.notes}
	index.Manifests = append(index.Manifests, entry)
	if data, err = json.Marshal(index); err != nil {
		return err
	}
	desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
	_, err = p.dest.PutManifest(ctx, desc, data, tag)
	return err
}
