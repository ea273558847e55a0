// SPDX-License-Identifier: Apache-2.0

package push

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/state"
)

// blob is a configuration, a layer or whatever else manifests name.
type blob struct {
	desc    ocispec.Descriptor
	sources []string // other repositories of the registry that had it once, the likeliest first
	here    bool
}

// want puts a blob on the list of what is sent, once.
func (p *pusher) want(desc ocispec.Descriptor) {
	if p.blobs[desc.Digest] != nil || p.skips(desc) {
		return
	}
	b := &blob{desc: desc}
	p.blobs[desc.Digest] = b
	p.order = append(p.order, b)
}

// skips tells whether a layer stays where its descriptor says that it is to be had (OCI image specification,
// layer.md, "Non-Distributable Layers").
func (p *pusher) skips(desc ocispec.Descriptor) bool {
	restricted := strings.Contains(desc.MediaType, ".nondistributable.") || strings.Contains(desc.MediaType, ".foreign.")
	return restricted && len(desc.URLs) > 0 && !p.opt.Nondistributable
}

// sources reads where each blob is known to come from.
func (p *pusher) sources(ctx context.Context) error {
	err := p.d.View(ctx, func(tx *state.Tx) error {
		of := func(d digest.Digest) ([]string, error) {
			r, err := content.Get(tx, p.opt.Namespace, d)
			if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
				err = nil
			}
			return content.Sources(r.Labels, p.to.Domain), err
		}
		// A blob that was discarded has no record. It was where its image was.
		image, err := of(p.image.Target.Digest)
		if err != nil {
			return err
		}
		for _, b := range p.order {
			own, err := of(b.desc.Digest)
			if err != nil {
				return err
			}
			if len(own) == 0 {
				own = image
			}
			b.sources = candidates(own, p.to.Path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	digests := make([]digest.Digest, 0, len(p.order))
	for _, b := range p.order {
		digests = append(digests, b.desc.Digest)
	}
	own, err := p.owns(ctx, digests...)
	if err != nil {
		return err
	}
	for _, b := range p.order {
		st, err := os.Stat(content.Path(p.d, b.desc.Digest))
		b.here = err == nil && own[b.desc.Digest]
		if b.here && b.desc.Size > 0 && st.Size() != b.desc.Size {
			return fmt.Errorf("blob %s has %d bytes here, its descriptor says %d: %w", b.desc.Digest, st.Size(), b.desc.Size, errdefs.ErrDataLoss)
		}
	}
	return nil
}

// maxSources bounds the repositories that are tried for one blob.
const maxSources = 3

// candidates orders repositories by how much of their path they share with the one that is pushed to, which
// is what containerd does: the likelier is the same user allowed to read it.
func candidates(all []string, to string) []string {
	all = slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == to || s == "" })
	shared := func(s string) int {
		a, b := strings.Split(s, "/"), strings.Split(to, "/")
		n := 0
		for n < min(len(a), len(b)) && a[n] == b[n] {
			n++
		}
		return n
	}
	slices.SortStableFunc(all, func(a, b string) int { return cmp.Compare(shared(b), shared(a)) })
	return all[:min(len(all), maxSources)]
}

// sendBlobs brings all blobs to the registry, several at once: first those that are not here, whose absence at
// the registry ends the push before anything is sent, then the largest.
func (p *pusher) sendBlobs(ctx context.Context) error {
	for _, b := range p.order {
		p.report.Send(b.desc, progress.Waiting, 0)
	}
	slices.SortStableFunc(p.order, func(a, b *blob) int {
		if a.here != b.here {
			if a.here {
				return 1
			}
			return -1
		}
		return cmp.Compare(b.desc.Size, a.desc.Size)
	})
	absent := slices.IndexFunc(p.order, func(b *blob) bool { return b.here })
	if absent < 0 {
		absent = len(p.order)
	}
	if err := p.sideBySide(ctx, p.order[:absent]); err != nil {
		return err
	}
	return p.sideBySide(ctx, p.order[absent:])
}

func (p *pusher) sideBySide(ctx context.Context, all []*blob) error {
	running, ctx := errgroup.WithContext(ctx)
	running.SetLimit(cmp.Or(max(p.opt.Blobs, 0), defaultBlobs))
	var mu sync.Mutex
	for _, b := range all {
		running.Go(func() error {
			how, err := p.sendBlob(ctx, b)
			if err != nil {
				return fmt.Errorf("blob %.12s: %w", b.desc.Digest.Encoded(), err)
			}
			p.report.Send(b.desc, how, b.desc.Size)
			mu.Lock()
			defer mu.Unlock()
			p.result.count(how, b.desc.Size)
			return nil
		})
	}
	if running.Wait() != nil {
		return context.Cause(ctx) // the first error, or why all were to end
	}
	return nil
}

// count adds a blob that is at the registry.
func (r *Result) count(how progress.Status, size int64) {
	switch how {
	case progress.Exists:
		r.Existing++
	case progress.Mounted:
		r.Mounted++
	default:
		r.Uploaded++
		r.Sent += size
	}
}

// sendBlob brings one blob to the registry.
func (p *pusher) sendBlob(ctx context.Context, b *blob) (progress.Status, error) {
	has, err := p.dest.HasBlob(ctx, b.desc)
	if err != nil {
		return "", err
	}
	if has {
		if k := p.kept(b.desc.Digest); k.isLeft() {
			k.forget()
		}
		return progress.Exists, nil
	}
	up := p.dest.Upload(b.desc)
	k, err := p.keep(b.desc.Digest)
	if err != nil {
		return "", err
	}
	defer k.close()
	if !k.resume(ctx, up) {
		for _, from := range b.sources {
			mounted, err := up.Mount(ctx, from)
			if err != nil || mounted {
				return progress.Mounted, err
			}
		}
	}
	up.Note(k.note)
	f, err := p.open(b)
	if errdefs.IsNotFound(err) {
		return "", &MissingError{Image: p.image.Name, What: whatBlob, Digest: b.desc.Digest, err: err}
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	if b.desc.Size == 0 { // a descriptor need not say it
		if st, err := f.Stat(); err == nil {
			b.desc.Size = st.Size()
			up = p.dest.Upload(b.desc)
			up.Note(k.note)
		}
	}
	m := p.report.Meter(b.desc, progress.Uploading, 0)
	if err := up.Send(ctx, f, m.At); err != nil {
		return "", errors.Join(err, p.doubt(ctx, f, b.desc.Digest))
	}
	crash.Point("push.blob-sent")
	k.done()
	return progress.Done, nil
}

func (p *pusher) open(b *blob) (*os.File, error) {
	if !b.here {
		return nil, fmt.Errorf("content %q in namespace %q: %w", b.desc.Digest, p.opt.Namespace, errdefs.ErrNotFound)
	}
	return content.Open(p.d, b.desc.Digest)
}

// doubt looks whether it was the fault of the file that a registry did not take it.
func (p *pusher) doubt(ctx context.Context, f *os.File, want digest.Digest) error {
	if ctx.Err() != nil {
		return nil
	}
	sum := want.Algorithm().Digester()
	if _, err := io.Copy(sum.Hash(), io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return err
	}
	if got := sum.Digest(); got != want {
		return fmt.Errorf("the file here has digest %s: %w", got, errdefs.ErrDataLoss)
	}
	return nil
}

// record notes at the blobs that the repository has them, so that a later push to another repository of the
// registry mounts them. It changes only records that are there.
func (p *pusher) record(ctx context.Context) error {
	var stale []content.Blob
	look := func(tx *state.Tx) error {
		stale = nil
		for _, b := range p.order {
			r, err := content.Get(tx, p.opt.Namespace, b.desc.Digest)
			if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
				continue
			}
			if err != nil {
				return err
			}
			if key, value, changed := content.AddSource(r.Labels, p.to.Domain, p.to.Path); changed {
				r.Labels = map[string]string{key: value}
				stale = append(stale, r)
			}
		}
		return nil
	}
	if err := p.d.View(ctx, look); err != nil || len(stale) == 0 {
		return err
	}
	return p.d.Update(ctx, nil, func(tx *state.Tx) error {
		if err := look(tx); err != nil {
			return err
		}
		for _, b := range stale {
			if err := content.Merge(tx, p.opt.Namespace, b); err != nil {
				return err
			}
		}
		return nil
	})
}
