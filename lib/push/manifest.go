// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

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
