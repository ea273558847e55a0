// SPDX-License-Identifier: Apache-2.0

// Package prune removes images that nothing uses.
package prune

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// Options says which images are removed.
type Options struct {
	Namespace string
	All       bool          // those with a tag too
	Until     time.Time     // only what got its target before; the zero value: whenever
	Filter    filter.Filter // only what matches
	DryRun    bool
}

// Removed is what was removed, or with DryRun would have been.
type Removed struct {
	Images []image.Image `json:"images"`
	Freed  int64         `json:"freed"` // bytes of blobs and snapshots; unknown with DryRun
}

// Images removes the names that no container uses, those without a tag only unless opt.All. A container uses all names
// of the image that it was made of. All names go in one commit; then what nothing needs is collected.
func Images(ctx context.Context, d *state.Dir, opt Options) (r Removed, err error) {
	change := d.View
	if !opt.DryRun {
		change = func(ctx context.Context, fn func(*state.Tx) error) error { return d.Update(ctx, nil, fn) }
	}
	var before int64
	err = change(ctx, func(tx *state.Tx) error {
		if r.Images, err = unused(tx, opt); err != nil || opt.DryRun {
			return err
		}
		before, err = layers(tx, opt.Namespace)
		for _, img := range r.Images {
			if err == nil {
				err = image.Remove(tx, opt.Namespace, img.Name)
			}
		}
		return err
	})
	if err != nil || opt.DryRun {
		return r, err
	}
	removed, err := gc.Collect(ctx, d)
	if err != nil {
		return r, err
	}
	err = d.View(ctx, func(tx *state.Tx) error {
		after, err := layers(tx, opt.Namespace)
		r.Freed = removed.Bytes + max(0, before-after)
		return err
	})
	return r, err
}

// layers is what the committed snapshots of a namespace occupy.
func layers(tx *state.Tx, ns string) (sum int64, err error) {
	for s, err := range snapshot.All(tx, ns) {
		if err != nil && !errdefs.IsDataLoss(err) {
			return sum, err
		}
		sum += s.Size
	}
	return sum, nil
}

func unused(tx *state.Tx, opt Options) (all []image.Image, err error) {
	used, targets := map[string]bool{}, map[digest.Digest]bool{}
	for c, err := range container.All(tx, opt.Namespace) {
		if err != nil {
			return nil, err // it may use any
		}
		used[c.Image] = true
		if img, err := image.Get(tx, opt.Namespace, c.Image); err == nil {
			targets[img.Target.Digest] = true
		}
	}
	for img, err := range image.All(tx, opt.Namespace) {
		if errdefs.IsDataLoss(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ref, bad := image.Parse(img.Name)
		switch {
		case used[img.Name], targets[img.Target.Digest]:
		case !opt.All && (bad != nil || ref.Tag != ""):
		case !opt.Until.IsZero() && img.Updated.After(opt.Until):
		case !opt.Filter.Match(filter.Image(img.Name, img.Target, img.Labels)):
		default:
			all = append(all, img)
		}
	}
	return all, nil
}
