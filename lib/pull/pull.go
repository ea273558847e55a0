// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// Options says what to pull for whom, and how.
type Options struct {
	Namespace string
	// Name is what the image is recorded as; empty: the normalised reference.
	Name string
	// Labels are added to those of the record.
	Labels map[string]string
	// Also, when set, gives more names for the target, which are recorded in the same commit and with the same labels. It is
	// told the target and the manifest of the first platform, which is the zero value of an index with no image for it.
	Also func(target ocispec.Descriptor, m image.Manifest) []string
	// Platforms are those of an index to bring and unpack, each os/architecture[/variant]; none: this machine's.
	Platforms []string
	// AllPlatforms brings all that an index has, and unpacks what is for this machine.
	AllPlatforms bool
	// Open gives what the image is brought from; see lib/pull/remote.
	Open func(image.Reference) (Source, error)
	// Layers bounds the layers that are worked on at once; 0: 4.
	Layers int
	// Snapshotter takes the layers; nil: snapshot.Overlay.
	Snapshotter *snapshot.Snapshotter
	// NoUnpack leaves out the snapshots: only blobs are brought.
	NoUnpack bool
	// Discard leaves the blobs of layers that were unpacked to the next collection, as containerd does with
	// discard_unpacked_layers: the image runs, and can be pushed or exported only where the layers are.
	Discard bool
	// Patient waits for another pull of the same layer for as long as that gets on, and lets the bound of
	// the state directory's locks count only while it does not.
	Patient bool
	// Waits, when set, is the hub through which the pull learns for whom it waits; see [Waits].
	Waits *Waits
	// Warn, when set, is told what the user should know and the pull does not fail for. It may be called by
	// several goroutines at the same time.
	Warn func(string)
	// Progress, when set, hears of every step. It is called by one goroutine at a time.
	Progress func(progress.Event)
}

const (
	defaultLayers = 4
	// connections bounds the connections of one pull.
	connections = 8
)

// Image brings the image that name stands for and records it under that name. An image that is
// there whole costs one question to the registry and no write. What is no image is brought and not
// unpacked. The errors of the registry keep their kinds; content that is not what its digest or the image says it is, is errdefs.ErrFailedPrecondition
// and a [ContentError]. After an error nothing new is visible, and what had arrived whole and right is
// not asked for again.
func Image(ctx context.Context, d *state.Dir, name image.Reference, opt Options) (img image.Image, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("pull %s: %w", name, err)
		}
	}()
	if name.Digest != "" {
		name.Tag = "" // the digest alone decides what comes, so the tag may say what is not so
	}
	p := &puller{d: d, ref: name, opt: opt, made: &made{}, report: progress.New(name.String(), opt.Progress)}
	if err := p.parsePlatforms(); err != nil {
		return img, err
	}
	if p.repo, err = opt.Open(name); err != nil {
		return img, err
	}
	defer p.repo.Close()
	p.fetcher = &fetcher{repo: p.repo, conns: make(chan struct{}, connections)}
	if p.root, err = os.Open(d.Path()); err != nil {
		return img, err
	}
	defer p.root.Close()
	if !p.opt.NoUnpack {
		if err := p.sn().Ready(d); err != nil {
			return img, err
		}
	}
	if p.lease, err = lease.Take(d); err != nil {
		return img, err
	}
	img, err = p.run(ctx)
	err = state.NoRoom(err, d.Path())
	err = p.leaveRoom(ctx, errors.Join(err, p.lease.Release()))
	d.EmptyTrash()
	return img, err
}

// puller is one pull of one image.
type puller struct {
	d         *state.Dir
	ref       image.Reference
	opt       Options
	platforms []ocispec.Platform
	root      *os.File // open while anything is written, see sync
	lease     *lease.Lease
	repo      Source
	fetcher   *fetcher
	report    *progress.Reporter
	target    ocispec.Descriptor
	names     []string      // that are to stand for the target
	own       digest.Digest // of all platforms, the manifest for this machine
	damaged   bool          // a document in the store was, and has been replaced

	// Of one manifest, see part.
	image  image.Manifest
	labels labels
	layers []unpacked // as far as they were unpacked
	made   *made
	staged snapshot.ID // what the snapshotter has staged for the layer that is next
	// fetched are the blobs that are not brought, as the snapshotter has brought what they unpack to.
	fetched map[digest.Digest]bool
}

func (p *puller) sn() *snapshot.Snapshotter {
	if p.opt.Snapshotter == nil {
		return snapshot.Overlay
	}
	return p.opt.Snapshotter
}

func (p *puller) run(ctx context.Context) (image.Image, error) {
	p.report.Send(ocispec.Descriptor{}, progress.Resolving, 0)
	var err error
	if p.target, err = p.repo.Resolve(ctx); err != nil {
		return image.Image{}, err
	}
	parts, err := p.parts(ctx)
	if err != nil {
		return image.Image{}, err
	}
	p.names = p.allNames(parts)
	img, named, missing, err := p.present(ctx, parts)
	if err != nil {
		return image.Image{}, err
	}
	if len(missing) == 0 && named {
		return img, nil
	}
	if len(missing) == 0 {
		return p.record(ctx, p.recordNames)
	}
	var records []func(*state.Tx) error
	var written []string
	for _, q := range missing {
		if err := q.bringLayers(ctx); err != nil {
			return image.Image{}, err
		}
		if err := q.stack(ctx); err != nil {
			return image.Image{}, err
		}
		ids := make([]snapshot.ID, len(q.layers))
		for n, l := range q.layers {
			ids[n] = l.id
		}
		if err := q.noteFetched(ids); err != nil {
			return image.Image{}, err
		}
		records = append(records, q.recordBlobs, q.recordLayers)
		written = append(written, q.written()...)
	}
	p.d.EmptyTrash() // what layers were made of is not worth being written to the disk
	if err := p.sync(written); err != nil {
		return image.Image{}, err
	}
	crash.Point("pull.after-sync")
	return p.record(ctx, append(records, p.recordNames)...)
}

// hold puts all that the image consists of on the lease, before any of it is looked for.
func (p *puller) hold(ctx context.Context) error {
	var digests []string
	for _, l := range p.image.Manifest.Layers {
		digests = append(digests, l.Digest.String())
	}
	if err := p.lease.Hold(ctx, nil, lease.Content, digests...); err != nil || p.opt.NoUnpack {
		return err
	}
	return p.holdLayers(ctx)
}

// document gives an index, a manifest or a configuration, from the store or else from the registry.
func (p *puller) document(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if err := p.lease.Hold(ctx, nil, lease.Content, desc.Digest.String()); err != nil {
		return nil, err
	}
	data, err := content.ReadAll(p.d, desc, image.MaxManifest)
	if err == nil {
		p.report.Send(desc, progress.Exists, desc.Size)
		return data, nil
	}
	if !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
		return nil, err
	}
	p.report.Send(desc, progress.Waiting, 0)
	doubt := errdefs.IsDataLoss(err)
	p.damaged = p.damaged || doubt
	err = p.insist(ctx, desc, func(bool) (bool, error) { return p.tryDocument(ctx, desc, doubt) })
	if err != nil {
		return nil, err
	}
	p.report.Send(desc, progress.Done, desc.Size)
	return content.ReadAll(p.d, desc, image.MaxManifest)
}

// tryDocument is to a document what tryLayer is to a layer.
func (p *puller) tryDocument(ctx context.Context, desc ocispec.Descriptor, doubt bool) (again bool, err error) {
	i, err := p.begin(ctx, nil, desc, doubt)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	if i.Complete() {
		return false, nil
	}
	p.report.Send(desc, progress.Downloading, 0)
	err = p.bringDocument(ctx, i, desc)
	return i.Resumed() > 0 && i.Discarded(), err
}

func (p *puller) bringDocument(ctx context.Context, i *content.Ingest, desc ocispec.Descriptor) error {
	if !image.IsIndex(desc.MediaType) && !image.IsManifest(desc.MediaType) {
		if err := p.fetcher.fetch(ctx, i, desc, func(int) {}); err != nil {
			return err
		}
		return i.Commit()
	}
	data, err := p.repo.Manifest(ctx, desc)
	if err != nil {
		return err
	}
	if _, err := i.WriteAt(data, 0); err != nil {
		return err
	}
	return i.Commit()
}

// bringLayers works on several layers at once, beginning with the largest, so that none is left alone at the
// end. The first error ends the others.
func (p *puller) bringLayers(ctx context.Context) error {
	p.layers = make([]unpacked, len(p.image.Manifest.Layers))
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(cmp.Or(max(p.opt.Layers, 0), defaultLayers))
	for _, same := range p.order() {
		all.Go(func() error {
			for _, i := range same {
				if err := blame(ctx, p.layer(ctx, i)); err != nil {
					return fmt.Errorf("layer %.12s: %w", p.image.Manifest.Layers[i].Digest.Encoded(), err)
				}
			}
			return nil
		})
	}
	if all.Wait() != nil {
		return context.Cause(ctx) // the first error, or why all were to end
	}
	return nil
}

// order gives the layers by number, the largest first. Those with one blob come together, to be worked on
// one after the other: each of them would otherwise wait for a lock that this process holds.
//
// Where a tree begins as a copy of its parent's, the layers are worked on one after the other, the lowest first.
func (p *puller) order() [][]int {
	var order [][]int
	if inOrder := !p.opt.NoUnpack && !p.sn().Late(); inOrder {
		order = [][]int{{}}
		for i, desc := range p.image.Manifest.Layers {
			p.report.Send(desc, progress.Waiting, 0)
			order[0] = append(order[0], i)
		}
		return order
	}
	at := map[digest.Digest]int{}
	for i, desc := range p.image.Manifest.Layers {
		p.report.Send(desc, progress.Waiting, 0)
		n, again := at[desc.Digest]
		if !again {
			n = len(order)
			at[desc.Digest] = n
			order = append(order, nil)
		}
		order[n] = append(order[n], i)
	}
	slices.SortStableFunc(order, func(a, b []int) int {
		return cmp.Compare(p.image.Manifest.Layers[b[0]].Size, p.image.Manifest.Layers[a[0]].Size)
	})
	return order
}
