// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// goodRun is how much a connection must have brought for the count of failures to begin anew.
const goodRun = 1 << 20

// Blob reads length bytes of a blob from offset on; a negative length reads to the end. When no host
// has the blob, the descriptor's URLs are asked, without credentials. A transfer that breaks is resumed, at
// another host if the first does not get on; the reader's error says that it could not be. The bytes are
// unchecked, see [Repository.Distrust].
func (r *Repository) Blob(ctx context.Context, desc ocispec.Descriptor, offset, length int64) (io.ReadCloser, error) {
	b := &blob{r: r, desc: desc, pos: offset, end: desc.Size}
	if err := desc.Digest.Validate(); err != nil {
		return nil, r.fail(nil, b.what(), fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument))
	}
	if offset < 0 || offset > desc.Size {
		return nil, r.fail(nil, b.what(), fmt.Errorf("offset %d of %d bytes: %w", offset, desc.Size, errdefs.ErrOutOfRange))
	}
	if length >= 0 && length < desc.Size-offset {
		b.end = offset + length
	}
	b.outer, b.give = context.WithCancelCause(ctx)
	if b.pos == b.end {
		return b, nil
	}
	err := b.open()
	for _, u := range foreign(desc) {
		if !errdefs.IsNotFound(err) {
			break
		}
		b.url = u
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
	from     *endpoint // that sends, or whose connections are used for url
	url      string    // one of the descriptor's, instead of the repository's own
	pos, end int64
	outer    context.Context
	give     context.CancelCauseFunc
	body     io.ReadCloser
	started  int64 // pos at which body began
	failures int
}

func (b *blob) what() string { return fmt.Sprintf("blob %q", b.desc.Digest) }

// open sends a request for what is missing to each host until one sends it.
func (b *blob) open() error {
	err := b.r.each(b.outer, canPull, b.what(), b.openAt)
	if err == nil && b.url == "" {
		b.r.serves(b.from, b.desc.Digest)
	}
	return err
}

// openAt sends the request to one host, or to the foreign address over that host's connections.
func (b *blob) openAt(e *endpoint) error {
	header := http.Header{}
	if b.pos > 0 || b.end < b.desc.Size {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.pos, b.end-1))
	}
	codes := []int{http.StatusOK, http.StatusPartialContent}
	var resp *http.Response
	var err error
	if b.url == "" {
		resp, err = e.get(b.outer, http.MethodGet, "blobs", b.desc.Digest.String(), header, codes...)
	} else {
		_, bare, cerr := e.connect(b.outer)
		if cerr != nil {
			return cerr
		}
		resp, err = do(b.outer, bare, http.MethodGet, b.url, header, nil, codes...)
	}
	if err != nil {
		return err
	}
	if b.body, err = b.begin(resp); err != nil {
		resp.Body.Close()
		return err
	}
	if b.from != e {
		b.from, b.failures = e, 0
	}
	b.started = b.pos
	return nil
}

// serves notes who sent bytes of a blob.
func (r *Repository) serves(e *endpoint, blob digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.served[blob], e) {
		r.served[blob] = append(r.served[blob], e)
	}
}

// begin checks that an answer is about the bytes that were asked for, and skips what was not.
func (b *blob) begin(resp *http.Response) (io.ReadCloser, error) {
	if resp.StatusCode == http.StatusPartialContent {
		start, total, err := contentRange(resp.Header.Get("Content-Range"))
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnknown)
		case start != b.pos:
			return nil, fmt.Errorf("asked for byte %d, the answer begins at %d: %w", b.pos, start, errdefs.ErrUnknown)
		case total >= 0 && total != b.desc.Size:
			return nil, b.wrongSize(total)
		}
		return resp.Body, nil
	}
	body := resp.Body
	if resp.ContentLength != b.desc.Size && resp.Header.Get("Content-Encoding") != "" {
		plain, err := decoded(resp)
		if err != nil {
			return nil, err
		}
		body = unpacked{plain, resp.Body}
	} else if resp.ContentLength >= 0 && resp.ContentLength != b.desc.Size {
		return nil, b.wrongSize(resp.ContentLength)
	}
	if resp.Request.Header.Get("Range") != "" {
		b.r.whole.Store(true)
		if _, err := io.CopyN(io.Discard, body, b.pos); err != nil {
			return nil, fmt.Errorf("skip %d bytes: %w", b.pos, err)
		}
	}
	return body, nil
}

// unpacked is the body of an answer that the server compressed for the way.
type unpacked struct {
	io.Reader
	io.Closer
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
			return b.r.fail(b.from, b.what(), err)
		}
		if b.failures >= b.from.retry.attempts || errors.Is(cause, errSlow) {
			err := fmt.Errorf("broke off at byte %d of %d: %w: %w", b.pos, b.desc.Size, cause, errdefs.ErrUnavailable)
			err = b.r.fail(b.from, b.what(), err)
			if b.url != "" || !b.from.giveUp(err) {
				return err
			}
		} else if err := b.from.retry.pause(b.outer, backOff(b.failures)); err != nil {
			return b.r.fail(b.from, b.what(), err)
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
