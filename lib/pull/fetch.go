// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
)

const (
	// chunk is how much one connection is asked for when a blob is fetched over several, in bytes.
	chunk = 16 << 20
	// spread is how many connections one blob may use.
	spread = 4
	// piece is the most that is read and written at once. What one read brings is written down before
	// the next: a killed process loses only what the kernel still had for it.
	piece = 256 << 10
)

// fetcher brings the missing bytes of blobs.
type fetcher struct {
	repo  Source
	conns chan struct{} // a place for each connection
}

var pieces = sync.Pool{New: func() any { b := make([]byte, piece); return &b }}

// fetch brings what is missing of a blob and adds up what arrives. It uses more than one connection
// when the blob is large, places are free and the registry serves ranges. Without a registry it brings nothing.
func (f *fetcher) fetch(ctx context.Context, i *content.Ingest, desc ocispec.Descriptor, arrived func(int)) error {
	if f.repo == nil {
		return fmt.Errorf("content %q: it is not here, and no registry is asked: %w", desc.Digest, errdefs.ErrNotFound)
	}
	todo := i.Missing()
	var total int64
	for _, r := range todo {
		total += r.Len()
	}
	if err := f.acquire(ctx); err != nil {
		return err
	}
	defer f.release()
	if total < 2*chunk {
		for _, r := range todo {
			if err := f.get(ctx, i, desc, r, nil, arrived); err != nil {
				return err
			}
		}
		return nil
	}
	q := &queue{todo: todo, repo: f.repo}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var helpers sync.WaitGroup
	work := func(began func()) {
		for {
			r, ok := q.next()
			if !ok {
				return
			}
			if err := f.get(ctx, i, desc, r, began, arrived); err != nil {
				cancel(err)
				return
			}
		}
	}
	// The others start when the first answer has shown whether the registry serves ranges.
	work(sync.OnceFunc(func() {
		for n := 1; n < spread && f.repo.Ranges() && f.tryAcquire(); n++ {
			helpers.Go(func() {
				defer f.release()
				work(nil)
			})
		}
	}))
	helpers.Wait()
	return context.Cause(ctx)
}

// queue hands out the missing ranges in order, in chunks.
type queue struct {
	mu   sync.Mutex
	todo []content.Range
	repo Source
}

func (q *queue) next() (content.Range, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.todo) == 0 {
		return content.Range{}, false
	}
	r := q.todo[0]
	if r.Len() < 2*chunk || !q.repo.Ranges() {
		q.todo = q.todo[1:]
		return r, true
	}
	q.todo[0].Start += chunk
	r.End = r.Start + chunk
	return r, true
}

// get brings one range over one connection. began, if any, is called at the answer.
func (f *fetcher) get(ctx context.Context, i *content.Ingest, desc ocispec.Descriptor, r content.Range, began func(), arrived func(int)) error {
	body, err := f.repo.Blob(ctx, desc, r.Start, r.Len())
	if err != nil {
		return err
	}
	defer body.Close()
	if began != nil {
		began()
	}
	buf := pieces.Get().(*[]byte)
	defer pieces.Put(buf)
	for off := r.Start; off < r.End; {
		n, err := body.Read(*buf)
		if n > 0 {
			if _, err := i.WriteAt((*buf)[:n], off); err != nil {
				return err
			}
			off += int64(n)
			arrived(n)
		}
		if err == io.EOF { // bare: a broken connection may wrap one
			break
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fetcher) acquire(ctx context.Context) error {
	select {
	case f.conns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *fetcher) tryAcquire() bool {
	select {
	case f.conns <- struct{}{}:
		return true
	default:
		return false
	}
}

func (f *fetcher) release() { <-f.conns }
