// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/registry"
)

const (
	// referTries bounds how often an index of referrers is written.
	referTries = 32
	// leastPause and mostPause bound the wait after a write, see settle.
	leastPause = 50 * time.Millisecond
	mostPause  = 5 * time.Second
)

// refer lists a manifest among those that refer to its subject, for a registry that does not do so itself: in an
// index under a tag that is made of the subject's digest (OCI distribution specification, "Referrers Tag Schema").
//
// Others may write that index at the same time, and few registries compare what they replace. So the pushes of this state
// directory take turns, and what was written is read again when others that had read the index before have written theirs.
func (p *pusher) refer(ctx context.Context, n *node) (err error) {
	tag := strings.Replace(n.subject.Digest.String(), ":", "-", 1)
	if len(tag) > 128 {
		return nil // no tag can say it
	}
	var busy *lock.BusyError
	turn, err := p.d.Lock(ctx, nil, lock.Image, p.dest.Address()+":"+tag, lock.Exclusive)
	switch {
	case err == nil:
		defer func() { err = errors.Join(err, turn.Release()) }()
	case !errors.As(err, &busy): // where the registry keeps the other one waiting, it goes without a turn
		return err
	}
	var refused *registry.Tagged // was not replaced
	for range referTries {
		began := time.Now()
		was, index, err := p.referrers(ctx, tag)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == n.desc.Digest }) {
			return nil
		}
		if refused != nil && refused.Descriptor.Digest == was.Descriptor.Digest {
			was = nil // nobody has written, so the registry means something else by the condition
		}
		err = p.addReferrer(ctx, tag, was, index, n)
		refused = nil
		if errdefs.IsAborted(err) {
			refused = was
		} else if err != nil {
			return err
		}
		if err := settle(ctx, time.Since(began)); err != nil {
			return err
		}
	}
	return fmt.Errorf("others write the index %q at the same time, and %d times they have dropped this entry: %w", tag, referTries, errdefs.ErrUnavailable)
}

// referrers reads the index under a tag. One that is not there is empty.
func (p *pusher) referrers(ctx context.Context, tag string) (*registry.Tagged, ocispec.Index, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	was, err := p.dest.Tagged(ctx, tag)
	if errdefs.IsNotFound(err) {
		return &registry.Tagged{}, index, nil
	}
	if err != nil {
		return nil, index, err
	}
	if err := json.Unmarshal(was.Data, &index); err != nil || was.Descriptor.MediaType != ocispec.MediaTypeImageIndex {
		return nil, index, fmt.Errorf("the tag %q is no index of referrers: %w", tag, errdefs.ErrFailedPrecondition)
	}
	return &was, index, nil
}

func (p *pusher) addReferrer(ctx context.Context, tag string, was *registry.Tagged, index ocispec.Index, n *node) error {
	entry := ocispec.Descriptor{MediaType: n.desc.MediaType, Digest: n.desc.Digest, Size: n.desc.Size, ArtifactType: n.artifact, Annotations: n.notes}
	index.Manifests = append(index.Manifests, entry)
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return p.dest.Replace(ctx, desc, data, tag, was)
}

// settle waits until others that read the index before this write have written theirs, if they are not much slower than this
// push was, which took that long. A part of the wait is random, so that pushes that met do not meet again.
func settle(ctx context.Context, took time.Duration) error {
	d := min(max(leastPause, 2*took), mostPause)
	t := time.NewTimer(d + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
