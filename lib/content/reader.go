// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/state"
)

// Reader reads a part of a blob. Its methods io.ReaderAt and io.Seeker count from the beginning of the part.
type Reader struct {
	*io.SectionReader
	file *os.File
}

// Close closes the blob's file.
func (r *Reader) Close() error { return r.file.Close() }

// OpenRange opens the part of a blob from offset on, of at most size bytes; without a size, to the blob's end. A blob
// that the namespace does not have is errdefs.ErrNotFound, an offset beyond the blob's end errdefs.ErrOutOfRange.
func OpenRange(ctx context.Context, d *state.Dir, ns string, dg digest.Digest, offset, size int64) (*Reader, error) {
	if err := checkDigest(dg); err != nil {
		return nil, err
	}
	err := d.View(ctx, func(tx *state.Tx) error {
		_, err := Get(tx, ns, dg)
		return err
	})
	if err != nil {
		return nil, err
	}
	f, err := Open(d, dg)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && (offset < 0 || offset > st.Size()) {
		err = fmt.Errorf("content %q: offset %d: it has %d bytes: %w", dg, offset, st.Size(), errdefs.ErrOutOfRange)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if rest := st.Size() - offset; size <= 0 || size > rest {
		size = rest
	}
	return &Reader{io.NewSectionReader(f, offset, size), f}, nil
}
