// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/state"
)

// layer brings one layer: its blob and, unless the caller does without, its directory.
func (p *puller) layer(ctx context.Context, n int) error {
	desc := p.image.Manifest.Layers[n]
	if !p.opt.NoUnpack && !layer.IsLayer(desc.MediaType) {
		return fmt.Errorf("media type %q is no layer: %w", desc.MediaType, errdefs.ErrNotImplemented)
	}
	return p.insist(ctx, desc, func(again bool) (bool, error) { return p.tryLayer(ctx, n, desc, again) })
}

// insist tries to bring a blob until it is there, or its bytes are wrong and nobody has others. try tells that what went wrong
// may be the fault of bytes that were there before, as they can be wrong after a power cut or when another registry had
// sent them: then it is called again, and told so.
func (p *puller) insist(ctx context.Context, desc ocispec.Descriptor, try func(again bool) (bool, error)) error {
	for again := false; ; {
		old, err := try(again)
		switch {
		case old && !again && p.repo != nil:
			again = true
		case err == nil || !isContent(ctx, err) || !p.distrust(desc):
			return err
		}
		p.d.EmptyTrash() // what the wrong bytes unpacked to makes room first
	}
}

// distrust tells whether another host is to be asked for the blob.
func (p *puller) distrust(desc ocispec.Descriptor) bool {
	return p.repo != nil && p.repo.Distrust(desc.Digest)
}

// tryLayer reports again when what went wrong may be the fault of bytes that were there before. With doubt
// none of them is trusted.
func (p *puller) tryLayer(ctx context.Context, n int, desc ocispec.Descriptor, doubt bool) (again bool, err error) {
	var outer *lock.Lock
	there, proven := false, false
	if !p.opt.NoUnpack {
		if outer, err = p.lockLayer(ctx, n); err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, outer.Release()) }()
		if there, err = p.findLayer(ctx, n); err != nil {
			return false, err
		}
		if !there && !doubt {
			if there, err = p.fetch(ctx, n); err != nil {
				return false, err
			}
			defer func() { err = errors.Join(err, p.unstage(n)) }()
		}
		if there && (p.discards() || p.isFetched(p.layers[n].id)) {
			p.report.Send(desc, progress.Exists, desc.Size)
			return false, nil // a blob that is not kept is nothing that the directory must be compared with
		}
		if there {
			if proven, err = p.isProven(ctx, n); err != nil {
				return false, err
			}
		}
	}
	i, err := p.begin(ctx, outer, desc, doubt)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	inPlace := i.Complete()
	consume := drain
	switch {
	case p.opt.NoUnpack || proven:
		if inPlace {
			p.report.Send(desc, progress.Exists, desc.Size)
			err := i.Commit()
			return i.Discarded(), err
		}
	case there:
		consume = func(r io.Reader) error { return p.prove(ctx, n, r, i) }
	default:
		consume = func(r io.Reader) error { return p.unpack(ctx, n, r, i) }
	}
	if err := p.bring(ctx, i, desc, consume); err != nil {
		return i.Resumed() > 0 && (i.Discarded() || inPlace && isContent(ctx, err)), err
	}
	p.report.Send(desc, progress.Done, desc.Size)
	return false, nil
}

func (p *puller) arrived(desc ocispec.Descriptor) {
	if !p.opt.NoUnpack {
		p.report.Send(desc, progress.Unpacking, desc.Size)
	}
}

func drain(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// prove reads a layer whose directory is there already, to see whether it is that layer.
func (p *puller) prove(ctx context.Context, n int, r io.Reader, i *content.Ingest) error {
	plain, err := layer.Decompress(r, p.image.Manifest.Layers[n].MediaType)
	if err != nil {
		return contentError(ctx, err)
	}
	defer plain.Close()
	sum := digest.SHA256.Digester()
	if _, err := io.Copy(sum.Hash(), plain); err != nil {
		i.Fail(errUseless)
		return contentError(ctx, fmt.Errorf("read layer: %w", err))
	}
	return checkDiffID(sum.Digest(), p.image.Config.RootFS.DiffIDs[n])
}

// begin waits for whoever brings the same blob. With doubt what is in place is hashed whatever is known of
// it.
func (p *puller) begin(ctx context.Context, outer *lock.Lock, desc ocispec.Descriptor, doubt bool) (i *content.Ingest, err error) {
	p.opt.Waits.note(p.report, lock.Blob, desc.Digest.String(), desc)
	begin := content.Begin
	if doubt {
		begin = content.Repair
	}
	err = p.patiently(ctx, func() error {
		i, err = begin(ctx, p.d, outer, desc)
		return err
	})
	return i, err
}

// bring fetches what is missing of a blob while consume reads it from its beginning, and commits it.
func (p *puller) bring(outer context.Context, i *content.Ingest, desc ocispec.Descriptor, consume func(io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	var running sync.WaitGroup
	var failed error // the reason why not all has arrived, if that came first
	if len(i.Missing()) > 0 {
		m := p.report.Meter(desc, progress.Downloading, i.Resumed())
		running.Go(func() {
			err := p.fetcher.fetch(ctx, i, desc, m.Add)
			if err == nil && len(i.Missing()) > 0 {
				err = fmt.Errorf("the registry sent too little: %w", errdefs.ErrUnavailable)
			}
			if err == nil {
				p.arrived(desc)
				return
			}
			err = state.NoRoom(err, content.IngestPath(p.d, desc.Digest))
			if ctx.Err() == nil {
				failed = err
			}
			i.Fail(err)
		})
	} else {
		p.arrived(desc)
	}
	err := consume(i.Follow())
	if err != nil {
		cancel(err)
	}
	running.Wait()
	crash.Point("pull.after-data")
	switch {
	case failed != nil:
		return failed
	case err == nil:
		return i.Commit()
	case len(i.Missing()) == 0:
		// A wrong digest explains whatever else was wrong.
		if wrong := i.Commit(); errdefs.IsFailedPrecondition(wrong) {
			return wrong
		}
	case outer.Err() == nil:
		// Nobody knows whether these bytes are the right ones: the next try shall not build on them. An
		// error of the disk does not speak for them, as a layer can be made to fill one.
		err = errors.Join(err, i.Discard())
	}
	return err
}

// checkDiffID compares what a layer unpacked to with what the image's configuration says.
func checkDiffID(got, want digest.Digest) error {
	if got != want {
		return fmt.Errorf("it unpacks to diff id %s, the image's configuration says %s: %w", got, want, errdefs.ErrFailedPrecondition)
	}
	return nil
}
