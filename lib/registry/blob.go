// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// goodRun is how much a connection must have brought for the count of failures to begin anew.
const goodRun = 1 << 20

// Blob reads length bytes of a blob from offset on; a negative length reads to the end. When the
// registry does not have the blob, the descriptor's URLs are asked, without credentials. A transfer
// that breaks is resumed; the reader's error says that it could not be. The bytes are unchecked.
func (r *Repository) Blob(ctx context.Context, desc ocispec.Descriptor, offset, length int64) (io.ReadCloser, error) {
	b := &blob{r: r, desc: desc, pos: offset, end: desc.Size, url: r.url("blobs", desc.Digest.String())}
	if err := desc.Digest.Validate(); err != nil {
		return nil, r.fail(b.what(), fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument), false)
	}
	if offset < 0 || offset > desc.Size {
		return nil, r.fail(b.what(), fmt.Errorf("offset %d of %d bytes: %w", offset, desc.Size, errdefs.ErrOutOfRange), false)
	}
	if length >= 0 && length < desc.Size-offset {
		b.end = offset + length
	}
	b.outer, b.give = context.WithCancelCause(ctx)
	if b.pos == b.end {
		return b, nil
	}
	client, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	b.client = client
	err = b.open()
	for _, u := range foreign(desc) {
		if !errdefs.IsNotFound(err) {
			break
		}
		b.url, b.client = u, &http.Client{Transport: &guard{inner: r.retry, plain: r.plain}, CheckRedirect: checkRedirect}
		err = b.open()
	}
	if err != nil {
		b.give(err)
		return nil, err
	}
	return b, nil
}

// foreign lists the usable URLs of a descriptor (OCI image specification, descriptor.md).
func foreign(desc ocispec.Descriptor) []string {
	var urls []string
	for _, s := range desc.URLs {
		if u, err := url.Parse(s); err == nil && u.User == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" {
			urls = append(urls, s)
		}
	}
	return urls
}

// blob reads one range of a blob over as many connections as it takes.
type blob struct {
	r        *Repository
	desc     ocispec.Descriptor
	client   *http.Client
	url      string
	pos, end int64
	outer    context.Context
	give     context.CancelCauseFunc
	body     io.ReadCloser
	started  int64 // pos at which body began
	failures int
}

func (b *blob) what() string { return fmt.Sprintf("blob %q", b.desc.Digest) }

// open sends a request for what is missing.
func (b *blob) open() error {
	header := http.Header{}
	if b.pos > 0 || b.end < b.desc.Size {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.pos, b.end-1))
	}
	resp, err := do(b.outer, b.client, http.MethodGet, b.url, header, http.StatusOK, http.StatusPartialContent)
	if err == nil {
		if err = b.begin(resp); err != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		return b.r.fail(b.what(), err, false)
	}
	b.body, b.started = resp.Body, b.pos
	return nil
}

// begin checks that an answer is about the bytes that were asked for, and skips what was not.
func (b *blob) begin(resp *http.Response) error {
	if resp.StatusCode == http.StatusPartialContent {
		start, total, err := contentRange(resp.Header.Get("Content-Range"))
		switch {
		case err != nil:
			return fmt.Errorf("%w: %w", err, errdefs.ErrUnknown)
		case start != b.pos:
			return fmt.Errorf("asked for byte %d, the answer begins at %d: %w", b.pos, start, errdefs.ErrUnknown)
		case total >= 0 && total != b.desc.Size:
			return b.wrongSize(total)
		}
		return nil
	}
	if resp.ContentLength >= 0 && resp.ContentLength != b.desc.Size {
		return b.wrongSize(resp.ContentLength)
	}
	if resp.Request.Header.Get("Range") != "" {
		b.r.whole.Store(true)
		if _, err := io.CopyN(io.Discard, resp.Body, b.pos); err != nil {
			return fmt.Errorf("skip %d bytes: %w", b.pos, err)
		}
	}
	return nil
}

func (b *blob) wrongSize(n int64) error {
	return fmt.Errorf("it has %d bytes, the descriptor says %d: %w", n, b.desc.Size, errdefs.ErrFailedPrecondition)
}

// contentRange reads `bytes FIRST-LAST/TOTAL` (RFC 9110 section 14.4); a total of `*` is -1.
func contentRange(s string) (first, total int64, err error) {
	bad := fmt.Errorf("content range %q", oneLine(s))
	rest, ok := strings.CutPrefix(s, "bytes ")
	span, size, ok2 := strings.Cut(rest, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, bad
	}
	a, err1 := strconv.ParseUint(from, 10, 63)
	z, err2 := strconv.ParseUint(to, 10, 63)
	n, err3 := strconv.ParseUint(size, 10, 63)
	if size == "*" {
		return int64(a), -1, errors.Join(err1, err2)
	}
	if err1 != nil || err2 != nil || err3 != nil || z < a || z >= n {
		return 0, 0, bad
	}
	return int64(a), int64(n), nil
}

// Read implements io.Reader. Before the end of the range it never gives io.EOF.
func (b *blob) Read(p []byte) (int, error) {
	if b.pos >= b.end {
		return 0, io.EOF
	}
	if int64(len(p)) > b.end-b.pos {
		p = p[:b.end-b.pos]
	}
	for {
		n, err := b.read(p)
		b.pos += int64(n)
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if err == nil {
			continue
		}
		if err := b.resume(err); err != nil {
			return 0, err
		}
	}
}

// read reads from the open body, which ends early when it ends.
func (b *blob) read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// resume opens the rest of the range anew after a failure, or gives the error to end with.
func (b *blob) resume(cause error) error {
	b.body.Close()
	if b.pos-b.started >= goodRun {
		b.failures = 0
	}
	for {
		b.failures++
		if err := context.Cause(b.outer); err != nil {
			return b.r.fail(b.what(), err, false)
		}
		if b.failures >= b.r.retry.attempts {
			return b.r.fail(b.what(), fmt.Errorf("broke off at byte %d of %d: %w: %w", b.pos, b.desc.Size, cause, errdefs.ErrUnavailable), false)
		}
		if err := b.r.retry.pause(b.outer, backOff(b.failures)); err != nil {
			return b.r.fail(b.what(), err, false)
		}
		err := b.open()
		var status *statusError
		if err == nil || errors.As(err, &status) || !errdefs.IsUnavailable(err) {
			return err
		}
		cause = err
	}
}

// Close ends the transfer.
func (b *blob) Close() error {
	b.give(context.Canceled)
	if b.body != nil {
		return b.body.Close()
	}
	return nil
}
