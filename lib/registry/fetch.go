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
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/klauspost/compress/gzip"
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
func (r *Repository) Resolve(ctx context.Context) (desc ocispec.Descriptor, err error) {
	need := canResolve
	if r.ref.Digest != "" {
		need = canPull // any host may serve what its digest proves
	}
	what := fmt.Sprintf("manifest %q", identifier(r.ref))
	err = r.each(ctx, need, what, func(e *endpoint) error {
		desc, err = r.resolve(ctx, e)
		return err
	})
	return desc, err
}

func (r *Repository) resolve(ctx context.Context, e *endpoint) (ocispec.Descriptor, error) {
	header := http.Header{"Accept": {strings.Join(manifestTypes, ", ")}}
	var desc ocispec.Descriptor
	resp, err := e.get(ctx, http.MethodHead, "manifests", identifier(r.ref), header, http.StatusOK)
	if err == nil {
		resp.Body.Close()
		desc, err = fromHeader(resp)
	} else if !worthGet(err) {
		return desc, err
	}
	if err != nil {
		// No registry has to answer HEAD, and only GET tells why something is refused.
		resp, err := e.get(ctx, http.MethodGet, "manifests", identifier(r.ref), header, http.StatusOK)
		if err != nil {
			return desc, e.noRegistry(ctx, err)
		}
		if desc, err = r.keep(resp); err != nil {
			return desc, err
		}
	}
	if want := r.ref.Digest; want != "" && want != desc.Digest {
		return desc, fmt.Errorf("the answer has digest %s: %w", desc.Digest, errdefs.ErrFailedPrecondition)
	}
	return desc, nil
}

// noRegistry looks closer at a missing manifest: a server that has no such page is no registry.
func (e *endpoint) noRegistry(ctx context.Context, err error) error {
	var status *transport.Error
	if !errors.As(err, &status) || status.StatusCode != http.StatusNotFound || len(status.Errors) > 0 || e.override {
		return err
	}
	client, _, cerr := e.connect(ctx)
	if cerr != nil {
		return err
	}
	root := url.URL{Scheme: e.scheme, Host: e.host, Path: strings.TrimSuffix(e.path, "/") + "/"}
	resp, perr := do(ctx, client, http.MethodGet, root.String(), e.header, nil, http.StatusOK)
	if perr == nil {
		resp.Body.Close()
	}
	if isStatus(perr, http.StatusNotFound) {
		return fmt.Errorf("it has no /v2/ interface: %w", errdefs.ErrUnavailable)
	}
	return err
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
	if !known(typ) || resp.ContentLength <= 0 || resp.Header.Get("Content-Encoding") != "" {
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
	if r.ref.Digest != "" {
		alg = r.ref.Digest.Algorithm()
	}
	if !alg.Available() {
		return ocispec.Descriptor{}, fmt.Errorf("digest algorithm %q: %w", alg, errdefs.ErrNotImplemented)
	}
	desc, err := descriptorOf(resp, alg, data)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	r.mu.Lock()
	r.kept = body{desc, data}
	r.mu.Unlock()
	return desc, nil
}

// descriptorOf makes the descriptor of a manifest that an answer has brought.
func descriptorOf(resp *http.Response, alg digest.Algorithm, data []byte) (desc ocispec.Descriptor, err error) {
	desc = ocispec.Descriptor{MediaType: mediaType(resp), Digest: alg.FromBytes(data), Size: int64(len(data))}
	if !known(desc.MediaType) {
		desc.MediaType, err = sniff(data)
	}
	return desc, err
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
func (r *Repository) Manifest(ctx context.Context, desc ocispec.Descriptor) (data []byte, err error) {
	r.mu.Lock()
	kept := r.kept
	r.mu.Unlock()
	if kept.data != nil && kept.desc.Digest == desc.Digest {
		return kept.data, nil
	}
	what := fmt.Sprintf("manifest %q", desc.Digest)
	if err := desc.Digest.Validate(); err != nil {
		return nil, r.fail(nil, what, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument))
	}
	err = r.each(ctx, canPull, what, func(e *endpoint) error {
		data, err = e.manifest(ctx, desc)
		return err
	})
	return data, err
}

// manifest reads one from this host, and again when the connection breaks.
func (e *endpoint) manifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	types := slices.DeleteFunc(slices.Clone(manifestTypes), func(t string) bool { return t == desc.MediaType })
	if desc.MediaType != "" {
		types = slices.Insert(types, 0, desc.MediaType)
	}
	header := http.Header{"Accept": {strings.Join(types, ", ")}}
	for n := 1; ; n++ {
		resp, err := e.get(ctx, http.MethodGet, "manifests", desc.Digest.String(), header, http.StatusOK)
		if err != nil {
			return nil, err
		}
		data, err := readBounded(resp)
		if err == nil {
			return data, check(desc, data)
		}
		if !isBroken(err) || n >= e.retry.attempts {
			return nil, err
		}
		if err := e.retry.pause(ctx, backOff(n)); err != nil {
			return nil, err
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
	body, err := decoded(resp)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(body, MaxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxManifest {
		return nil, fmt.Errorf("larger than %d bytes: %w", MaxManifest, errdefs.ErrFailedPrecondition)
	}
	return data, nil
}

// decoded gives the body of an answer as it was before a server that was asked not to compressed it.
func decoded(resp *http.Response) (io.Reader, error) {
	switch enc := strings.ToLower(resp.Header.Get("Content-Encoding")); enc {
	case "", "identity":
		return resp.Body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(resp.Body)
		if err != nil {
			return nil, fmt.Errorf("content encoding gzip: %w", err)
		}
		return z, nil
	default:
		return nil, fmt.Errorf("content encoding %q: %w", oneLine(enc), errdefs.ErrNotImplemented)
	}
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
