// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// atOnce is the size up to which a blob is sent with the request that ends its upload, in bytes.
	atOnce = 256 << 10
	// firstChunk is how much is sent in one request to a registry that has called the whole too large.
	firstChunk = 32 << 20
	leastChunk = 1 << 20
)

// Upload is one blob on its way to a repository. Its methods must not be called at the same time.
type Upload struct {
	d       *Destination
	desc    ocispec.Descriptor
	session *url.URL // where the registry takes the next bytes; nil: nothing has begun
	taken   int64    // how many bytes it has
	chunk   int64    // the most that is sent in one request; 0: all that is left
	least   int64    // the least that a chunk before the last must have
	note    func(address string)
	resumed bool // it went on after a failure, so the registry may have kept bytes that it did not tell of
}

// Upload begins nothing yet: see [Upload.Mount] and [Upload.Send].
func (d *Destination) Upload(desc ocispec.Descriptor) *Upload { return &Upload{d: d, desc: desc} }

// Note has fn hear where the registry takes the rest of the blob, each time that it says so: with that address
// another process can go on, see [Upload.Resume]. Who knows the address may write to the upload, so it is a secret.
// A blob that is sent with one request has none.
func (u *Upload) Note(fn func(address string)) {
	u.note = fn
	u.tell()
}

func (u *Upload) tell() {
	if u.note != nil && u.session != nil && u.desc.Size > atOnce {
		u.note(u.session.String())
	}
}

// Resume takes over an upload of the same blob that another process has begun, and left at this address. It reports
// whether the registry still has bytes of it; if so, Send goes on behind them. Otherwise it changes nothing.
func (u *Upload) Resume(ctx context.Context, address string) bool {
	session, err := url.Parse(address)
	if err != nil || session.Host == "" || session.User != nil {
		return false
	}
	begun := *u
	u.session = session
	if n, ok := u.status(ctx); ok && 0 < n && n <= u.desc.Size {
		u.taken, u.resumed = n, true
		return true
	}
	*u = begun
	return false
}

func (u *Upload) what() string { return fmt.Sprintf("upload of blob %q", u.desc.Digest) }

// Mount asks the registry to take the blob from another of its repositories, without a byte being sent. It
// reports whether it has done so. That it has not, for whatever reason, is no error.
func (u *Upload) Mount(ctx context.Context, from string) (bool, error) {
	client, err := u.d.mounting(ctx, from)
	if err != nil {
		return false, u.d.repo.fail(u.d.at, u.what(), err)
	}
	resp, err := u.post(ctx, client, url.Values{"mount": {u.desc.Digest.String()}, "from": {from}})
	switch {
	case ctx.Err() != nil:
		return false, u.d.repo.fail(u.d.at, u.what(), context.Cause(ctx))
	case err != nil:
		return false, nil
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusCreated {
		return true, nil
	}
	// The registry has begun an upload instead.
	u.adopt(resp)
	return false, nil
}

func (u *Upload) post(ctx context.Context, client *http.Client, query url.Values) (*http.Response, error) {
	e := u.d.at
	// Registries have this page with a slash at its end, which url leaves out.
	address, err := url.Parse(e.url(e.scheme, "blobs/uploads", ""))
	if err != nil {
		return nil, err
	}
	address.Path += "/"
	all := address.Query()
	for k, v := range query {
		all[k] = v
	}
	address.RawQuery = all.Encode()
	return e.send(ctx, client, http.MethodPost, address.String(), nil, nil, http.StatusAccepted, http.StatusCreated)
}

// adopt notes where an answer says that the upload goes on.
func (u *Upload) adopt(resp *http.Response) error {
	session, err := u.d.location(resp)
	if err != nil {
		return err
	}
	u.session = session
	u.tell()
	if n, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 63); err == nil && n > 0 {
		u.least = min(n, 1<<40)
	}
	return nil
}

// Send sends the bytes of a blob, which src has from offset 0 on. A transfer that breaks goes on where the
// registry says that it stands, or from the beginning where it does not say. at, if set, hears how many bytes
// are there; the number can fall.
func (u *Upload) Send(ctx context.Context, src io.ReaderAt, at func(int64)) error {
	if at == nil {
		at = func(int64) {}
	}
	e := u.d.at
	best, failures, login := int64(0), 0, true
	for {
		err := u.try(ctx, src, at)
		if err == nil {
			return nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return u.d.repo.fail(e, u.what(), cause)
		}
		if isStatus(err, http.StatusUnauthorized) && login {
			login = false // the client has logged in anew, but could not send the body again
			u.find(ctx)
			continue
		}
		if u.smaller(err) {
			continue
		}
		if isStatus(err, http.StatusBadRequest) && u.resumed {
			u.restart()
			continue
		}
		if failures++; !u.passes(err) || failures >= e.retry.attempts {
			return u.d.repo.fail(e, u.what(), u.broken(err))
		}
		if err := e.retry.wait(ctx, failures, err); err != nil {
			return u.d.repo.fail(e, u.what(), u.broken(err))
		}
		if done := u.find(ctx); done {
			return nil
		}
		if u.taken >= best+goodRun {
			best, failures, login = u.taken, 0, true
		}
	}
}

// broken says of a transfer that did not go on how far it came.
func (u *Upload) broken(err error) error {
	if isBroken(err) {
		return fmt.Errorf("broke off at byte %d of %d: %w: %w", u.taken, u.desc.Size, err, errdefs.ErrUnavailable)
	}
	return err
}

// smaller makes the requests smaller when one was too large, which something before the registry may say.
func (u *Upload) smaller(err error) bool {
	if !isStatus(err, http.StatusRequestEntityTooLarge) || u.chunk == leastChunk {
		return false
	}
	if u.chunk == 0 {
		u.chunk = 2 * firstChunk
	}
	for u.chunk > leastChunk && u.chunk >= u.desc.Size {
		u.chunk /= 2
	}
	u.chunk = max(u.chunk/2, leastChunk)
	u.restart()
	return true
}

func (u *Upload) restart() { u.session, u.taken, u.resumed = nil, 0, false }

// passes tells whether it makes sense to go on after a failure.
func (u *Upload) passes(err error) bool {
	if isBroken(err) {
		return true
	}
	// 404 and 416: the registry has lost the upload, or stands elsewhere in it.
	return isStatus(err, http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable) && (u.session != nil || !isStatus(err, http.StatusNotFound))
}

// try goes on until all is there, or an error.
func (u *Upload) try(ctx context.Context, src io.ReaderAt, at func(int64)) error {
	client, _, err := u.d.at.connect(ctx)
	if err != nil {
		return err
	}
	if u.session == nil {
		u.taken = 0
		resp, err := u.post(ctx, client, nil)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if err := u.adopt(resp); err != nil {
			return err
		}
	}
	at(u.taken)
	if u.taken == 0 && u.desc.Size <= atOnce {
		return u.commit(ctx, client, u.body(src, u.desc.Size, at))
	}
	for u.taken < u.desc.Size {
		if err := u.patch(ctx, client, src, at); err != nil {
			return err
		}
		at(u.taken)
	}
	return u.commit(ctx, client, nil)
}

// patch sends the next part.
func (u *Upload) patch(ctx context.Context, client *http.Client, src io.ReaderAt, at func(int64)) error {
	n := u.desc.Size - u.taken
	if u.chunk > 0 {
		n = min(n, max(u.chunk, u.least))
	}
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	if u.taken > 0 || n < u.desc.Size {
		// Registries of old know no Content-Range, so the whole goes without.
		header.Set("Content-Range", fmt.Sprintf("%d-%d", u.taken, u.taken+n-1))
	}
	for hop := 0; ; hop++ {
		resp, err := u.d.at.send(ctx, client, http.MethodPatch, u.session.String(), header, u.body(src, n, at), http.StatusAccepted,
			http.StatusNoContent, http.StatusOK, http.StatusCreated, http.StatusTemporaryRedirect, http.StatusPermanentRedirect)
		if err != nil {
			return err
		}
		resp.Body.Close()
		moved := resp.StatusCode >= 300
		if moved && hop >= maxRedirects {
			return fmt.Errorf("more than %d redirects: %w", maxRedirects, errdefs.ErrUnknown)
		}
		if resp.Header.Get("Location") != "" || moved {
			if err := u.adopt(resp); err != nil {
				return err
			}
		}
		if moved {
			continue
		}
		end := u.taken + n
		// A registry that took less says so.
		if has, ok := uploaded(resp.Header.Get("Range")); ok && has > u.taken && has < end {
			end = has
		}
		u.taken = end
		return nil
	}
}

// commit ends the upload: the registry compares what it has with the digest.
func (u *Upload) commit(ctx context.Context, client *http.Client, body *outgoing) error {
	address := *u.session
	if address.RawQuery != "" {
		address.RawQuery += "&"
	}
	address.RawQuery += "digest=" + url.QueryEscape(u.desc.Digest.String())
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	var reader io.Reader
	if body != nil {
		reader = body
	}
	resp, err := u.d.at.send(ctx, client, http.MethodPut, address.String(), header, reader, http.StatusCreated, http.StatusNoContent, http.StatusOK)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// find asks the registry how far the upload has come. Where there is no answer it begins anew. It reports
// whether the blob is there whole: the answer that said so may have been lost.
func (u *Upload) find(ctx context.Context) (done bool) {
	if u.session == nil {
		return false
	}
	if u.taken >= u.desc.Size || u.desc.Size <= atOnce {
		if has, err := u.d.HasBlob(ctx, u.desc); err == nil && has {
			return true
		}
	}
	if n, ok := u.status(ctx); ok && n <= u.desc.Size {
		u.taken, u.resumed = n, true
	} else {
		u.restart()
	}
	return false
}

// status asks how many bytes the registry has of the upload.
func (u *Upload) status(ctx context.Context) (n int64, ok bool) {
	client, _, err := u.d.at.connect(ctx)
	if err != nil {
		return 0, false
	}
	resp, err := u.d.at.send(ctx, client, http.MethodGet, u.session.String(), nil, nil, http.StatusNoContent, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return 0, false
	}
	resp.Body.Close()
	if resp.Header.Get("Location") != "" && u.adopt(resp) != nil {
		return 0, false
	}
	return uploaded(resp.Header.Get("Range"))
}

// uploaded reads the Range header of an upload, 0-LAST, and gives the number of bytes. Registries say 0-0 also
// of an upload that has none.
func uploaded(s string) (int64, bool) {
	first, last, ok := strings.Cut(strings.TrimPrefix(s, "bytes="), "-")
	n, err := strconv.ParseUint(last, 10, 62)
	if !ok || first != "0" || err != nil {
		return 0, false
	}
	if n == 0 {
		return 0, true
	}
	return int64(n) + 1, true
}

// body gives the next n bytes to send.
func (u *Upload) body(src io.ReaderAt, n int64, at func(int64)) *outgoing {
	return &outgoing{src: io.NewSectionReader(src, u.taken, n), begin: u.taken, length: n, at: at}
}

// outgoing is the body of one request, which is sent once: nobody but Send knows how much of it a registry that
// failed has kept. A peer that takes nothing for a time ends it.
type outgoing struct {
	src           *io.SectionReader
	begin, length int64
	sent          int64
	at            func(int64)
	most          time.Duration // between two reads
	idle          *time.Timer
}

// watch calls stop when the peer takes nothing for a time.
func (o *outgoing) watch(most time.Duration, stop func()) {
	o.most, o.idle = most, time.AfterFunc(most, stop)
}

// Read implements io.Reader.
func (o *outgoing) Read(p []byte) (int, error) {
	if o.idle != nil {
		o.idle.Reset(o.most)
	}
	n, err := o.src.Read(p)
	o.sent += int64(n)
	o.at(o.begin + o.sent)
	if o.sent == o.length {
		o.Close() // what follows is the wait for an answer
	}
	return n, err
}

// Close ends the watch over the peer.
func (o *outgoing) Close() error {
	if o.idle != nil {
		o.idle.Stop()
	}
	return nil
}
