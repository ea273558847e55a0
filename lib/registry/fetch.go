// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifest is the largest manifest or index that is read, in bytes.
const MaxManifest = 16 << 20

// Media types of Docker's image format, schema 2.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

var manifestTypes = []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerList, dockerManifest}

// body is a manifest that has been read.
type body struct {
	desc ocispec.Descriptor
	data []byte
}

// Resolve asks what the reference stands for. The descriptor has media type, digest and size. When the
// reference has a digest, the answer has the same. The manifest itself is read only when the registry
// does not tell these three without it.
func (r *Repository) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	what := fmt.Sprintf("manifest %q", r.ref.Identifier())
	url := r.url("manifests", r.ref.Identifier())
	header := http.Header{"Accept": manifestTypes}
	var desc ocispec.Descriptor
	resp, err := r.get(ctx, http.MethodHead, url, header, http.StatusOK)
	if err == nil {
		resp.Body.Close()
		desc, err = fromHeader(resp)
	} else if !worthGet(err) {
		return desc, r.fail(what, err, false)
	}
	if err != nil {
		// No registry has to answer HEAD, and only GET tells why something is refused.
		resp, err := r.get(ctx, http.MethodGet, url, header, http.StatusOK)
		if err != nil {
			return desc, r.fail(what, err, false)
		}
		if desc, err = r.keep(resp); err != nil {
			return desc, r.fail(what, err, false)
		}
	}
	if want, ok := r.ref.(name.Digest); ok && want.DigestStr() != desc.Digest.String() {
		return desc, r.fail(what, fmt.Errorf("the answer has digest %s: %w", desc.Digest, errdefs.ErrFailedPrecondition), false)
	}
	return desc, nil
}

// worthGet tells whether a GET may do or say more than the HEAD that ended with err.
func worthGet(err error) bool {
	var e *transport.Error
	return errors.As(err, &e) && e.StatusCode != http.StatusTooManyRequests && e.StatusCode < 500
}

// fromHeader reads a descriptor from the answer to a HEAD request.
func fromHeader(resp *http.Response) (ocispec.Descriptor, error) {
	d, err := digest.Parse(resp.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	typ := mediaType(resp)
	if !known(typ) || resp.ContentLength <= 0 {
		return ocispec.Descriptor{}, errors.New("incomplete answer")
	}
	return ocispec.Descriptor{MediaType: typ, Digest: d, Size: resp.ContentLength}, nil
}

func mediaType(resp *http.Response) string {
	typ, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return typ
}

func known(typ string) bool {
	for _, t := range manifestTypes {
		if t == typ {
			return true
		}
	}
	return false
}

// keep reads a manifest whose digest is not known yet, and keeps it for the call of Manifest that
// follows.
func (r *Repository) keep(resp *http.Response) (ocispec.Descriptor, error) {
	data, err := readBounded(resp)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	alg := digest.Canonical
	if want, ok := r.ref.(name.Digest); ok {
		alg = digest.Digest(want.DigestStr()).Algorithm()
	}
	if !alg.Available() {
		return ocispec.Descriptor{}, fmt.Errorf("digest algorithm %q: %w", alg, errdefs.ErrNotImplemented)
	}
	desc := ocispec.Descriptor{MediaType: mediaType(resp), Digest: alg.FromBytes(data), Size: int64(len(data))}
	if !known(desc.MediaType) {
		if desc.MediaType, err = sniff(data); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	r.mu.Lock()
	r.last = body{desc, data}
	r.mu.Unlock()
	return desc, nil
}

// sniff tells what a manifest is from its content, for registries that do not say.
func sniff(data []byte) (string, error) {
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return "", fmt.Errorf("no manifest: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	switch {
	case m.SchemaVersion == 1:
		return "", fmt.Errorf("docker schema 1 manifests are not supported, the image must be pushed again by a current builder: %w", errdefs.ErrNotImplemented)
	case known(m.MediaType):
		return m.MediaType, nil
	case m.MediaType != "":
		return "", fmt.Errorf("media type %q is no image: %w", oneLine(m.MediaType), errdefs.ErrNotImplemented)
	case m.Manifests != nil:
		return ocispec.MediaTypeImageIndex, nil
	case m.Config != nil:
		return ocispec.MediaTypeImageManifest, nil
	}
	return "", fmt.Errorf("neither index nor manifest: %w", errdefs.ErrFailedPrecondition)
}

// Manifest reads an index or a manifest and checks it against the descriptor's digest and size. More
// than MaxManifest bytes are refused.
func (r *Repository) Manifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	r.mu.Lock()
	last := r.last
	r.mu.Unlock()
	if last.data != nil && last.desc.Digest == desc.Digest {
		return last.data, nil
	}
	what := fmt.Sprintf("manifest %q", desc.Digest)
	if err := desc.Digest.Validate(); err != nil {
		return nil, r.fail(what, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument), false)
	}
	header := http.Header{"Accept": append([]string{desc.MediaType}, manifestTypes...)}
	for n := 1; ; n++ {
		resp, err := r.get(ctx, http.MethodGet, r.url("manifests", desc.Digest.String()), header, http.StatusOK)
		if err != nil {
			return nil, r.fail(what, err, false)
		}
		data, err := readBounded(resp)
		if err == nil {
			if err := check(desc, data); err != nil {
				return nil, r.fail(what, err, false)
			}
			return data, nil
		}
		if !isBroken(err) || n >= r.retry.attempts {
			return nil, r.fail(what, err, false)
		}
		if err := r.retry.pause(ctx, backOff(n)); err != nil {
			return nil, r.fail(what, err, false)
		}
	}
}

func check(desc ocispec.Descriptor, data []byte) error {
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return fmt.Errorf("the answer has digest %s: %w", got, errdefs.ErrFailedPrecondition)
	}
	if desc.Size > 0 && desc.Size != int64(len(data)) {
		return fmt.Errorf("the answer has %d bytes, the descriptor says %d: %w", len(data), desc.Size, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// readBounded reads and closes the body of an answer.
func readBounded(resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxManifest {
		return nil, fmt.Errorf("larger than %d bytes: %w", MaxManifest, errdefs.ErrFailedPrecondition)
	}
	return data, nil
}

// laterError adds what the server said about when to come back.
type laterError struct {
	error
	after time.Duration
}

func (e *laterError) Unwrap() error { return e.error }

func withRetryAfter(err error, resp *http.Response) error {
	if d := retryAfter(resp.Header.Get("Retry-After"), time.Now()); d > 0 {
		return &laterError{err, d}
	}
	return err
}
