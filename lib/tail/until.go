// SPDX-License-Identifier: Apache-2.0

package tail

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
)

// Until runs fn and gives what it gives. When ctx ends first, fn is left behind and the error is the cause: that is for a
// call that lasts as long as another process wants and that nothing interrupts, such as the open of a FIFO without a
// writer. What fn opens after that is nobody's.
func Until[T any](ctx context.Context, fn func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := fn()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// Open opens a file that a person has named, for reading. It may be a FIFO that nobody has opened for writing yet; see
// [Until].
func Open(ctx context.Context, name string) (*os.File, error) {
	return Until(ctx, func() (*os.File, error) { return os.Open(name) })
}

// ReadFile reads a file that a person has named and that may be a FIFO or a pipe. One of more than limit bytes is
// errdefs.ErrInvalidArgument.
func ReadFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	return Until(ctx, func() ([]byte, error) {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, limit+1))
		if err == nil && int64(len(text)) > limit {
			err = fmt.Errorf("larger than %d bytes: %w", limit, errdefs.ErrInvalidArgument)
		}
		return text, err
	})
}

// Reader gives a reader of r whose Read fails with the cause when ctx ends: whoever is at the other end of a pipe or a
// terminal may say nothing for ever. It reads no more of r than it is asked for. A regular file is read as it is.
func Reader(ctx context.Context, r io.Reader) io.Reader {
	if f, ok := r.(*os.File); ok && isRegular(f) {
		return r
	}
	return &endingReader{ctx: ctx, from: r}
}

// Writer is [Reader] for writing: whoever is at the other end may take nothing.
func Writer(ctx context.Context, w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && isRegular(f) {
		return w
	}
	return &endingWriter{ctx: ctx, to: w}
}

func isRegular(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode().IsRegular()
}

// The buffers are the goroutine's that may be left behind: the caller's are its own again when a call has returned.

type endingReader struct {
	ctx  context.Context
	from io.Reader
	buf  []byte
}

// Read reads from the reader that is given to [Reader].
func (r *endingReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	if len(r.buf) < len(p) {
		r.buf = make([]byte, len(p))
	}
	n, err := Until(r.ctx, func() (int, error) { return r.from.Read(r.buf[:len(p)]) })
	return copy(p, r.buf[:n]), err
}

type endingWriter struct {
	ctx context.Context
	to  io.Writer
	buf []byte
}

// Write writes to the writer that is given to [Writer].
func (w *endingWriter) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	w.buf = append(w.buf[:0], p...)
	return Until(w.ctx, func() (int, error) { return w.to.Write(w.buf) })
}
