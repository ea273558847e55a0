// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/state"
)

// Local is a pull without a registry: whoever has put the blobs of images into the content store makes layers of
// them and makes all visible in one commit. It is used by one goroutine.
type Local struct {
	d      *state.Dir
	opt    Options
	root   *os.File
	lease  *lease.Lease
	done   []*puller
	all    []*puller // whether they were unpacked or not
	failed error
}

// NewLocal begins the work, before the first blob is written: an error of writing back is reported to those
// only who had the file system open by then. Of opt the registry's part does not count.
func NewLocal(d *state.Dir, opt Options) (*Local, error) {
	root, err := os.Open(d.Path())
	if err != nil {
		return nil, err
	}
	l, err := lease.Take(d)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &Local{d: d, opt: opt, root: root, lease: l}, nil
}

// Hold puts blobs, by digest, on the lease of the work. Only then may be looked whether they are there.
func (l *Local) Hold(ctx context.Context, digests ...string) error {
	return l.lease.Hold(ctx, nil, lease.Content, digests...)
}

// Store stores the blob that write writes, on the lease of the work, and describes it with a media type.
func (l *Local) Store(ctx context.Context, mediaType string, write func(io.Writer) error) (desc ocispec.Descriptor, err error) {
	s, err := content.Stage(l.d, digest.SHA256)
	if err != nil {
		return desc, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := write(s); err != nil {
		return desc, err
	}
	desc = s.Descriptor()
	desc.MediaType = mediaType
	if err := l.Hold(ctx, desc.Digest.String()); err != nil {
		return desc, err
	}
	return desc, s.Place(ctx, nil)
}

// StoreBytes is Store of a document.
func (l *Local) StoreBytes(ctx context.Context, mediaType string, data []byte) (ocispec.Descriptor, error) {
	return l.Store(ctx, mediaType, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Unpack makes the directories of an image's layers, as far as they are not there. All of its blobs must be in
// the content store and on the lease. One that does not unpack to what the configuration says is a [ContentError].
func (l *Local) Unpack(ctx context.Context, name string, m image.Manifest) (err error) {
	if n := len(m.Manifest.Layers); n > mount.MaxLayers {
		return tooManyLayers(n)
	}
	p := &puller{
		d: l.d, opt: l.opt, root: l.root, lease: l.lease, image: m, target: m.Descriptor,
		report: progress.New(name, l.opt.Progress), fetcher: &fetcher{}, made: &made{},
	}
	p.opt.NoUnpack = false
	l.all = append(l.all, p)
	defer func() { err = l.note(err) }()
	if err := p.sn().Ready(l.d); err != nil {
		return err
	}
	if err := p.holdLayers(ctx); err != nil {
		return err
	}
	if err := p.bringLayers(ctx); err != nil {
		return err
	}
	if err := p.stack(ctx); err != nil {
		return err
	}
	p.labels, err = p.label()
	l.done = append(l.done, p)
	return err
}

// note remembers an error that leaves something behind.
func (l *Local) note(err error) error {
	err = state.NoRoom(err, l.d.Path())
	l.failed = errors.Join(l.failed, err)
	return err
}

// Record makes all durable that was written since NewLocal, and then visible in one commit: the snapshots of what
// was unpacked, and what fn records, which is blobs and names.
func (l *Local) Record(ctx context.Context, fn func(*state.Tx) error) error {
	p := puller{d: l.d, root: l.root}
	var written []string
	for _, p := range l.done {
		written = append(written, p.written()...)
	}
	l.d.EmptyTrash() // see puller.run
	if err := p.sync(written); err != nil {
		return l.note(err)
	}
	crash.Point("pull.after-sync")
	return l.note(l.d.Update(ctx, nil, func(tx *state.Tx) error {
		for _, p := range l.done {
			if err := errors.Join(p.recordLayers(tx), p.recordLabels(tx)); err != nil {
				return err
			}
		}
		return fn(tx)
	}))
}

// recordLabels records the blobs of an image without saying where they come from.
func (p *puller) recordLabels(tx *state.Tx) error {
	for _, desc := range p.blobs() {
		if err := content.Merge(tx, p.opt.Namespace, content.Blob{Digest: desc.Digest, Size: desc.Size, Labels: p.labels[desc.Digest]}); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the lease. What was not recorded is garbage then.
func (l *Local) Close() error {
	err := errors.Join(l.lease.Release(), l.root.Close())
	for _, p := range l.all {
		_ = p.leaveRoom(context.Background(), l.failed) // what it cannot throw away a collection does
	}
	l.d.EmptyTrash()
	return err
}

func tooManyLayers(n int) error {
	return fmt.Errorf("an image of %d layers can never run, the kernel stacks %d in an overlay: %w", n, mount.MaxLayers, errdefs.ErrNotImplemented)
}
