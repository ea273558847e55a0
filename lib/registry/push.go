// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/reference"
)

// commitTimeout bounds the time in which a registry answers what it has received whole: it may have to hash
// and to copy a large blob before it does.
const commitTimeout = 10 * time.Minute

// Destination is a repository that is written to, at one host. Its methods may be called at the same time.
type Destination struct {
	repo *Repository
	at   *endpoint
}

// OpenPush prepares to write to the repository of a normalised reference, at the first host that is configured
// to take pushes; no other one takes its place. Nothing is sent before the first use. The errors are those of
// [Open], and errdefs.ErrUnavailable when no host may be pushed to.
func OpenPush(ref reference.Reference, opt Options) (*Destination, error) {
	r, err := Open(ref, opt)
	if err != nil {
		return nil, err
	}
	for _, e := range r.hosts {
		if e.caps&canPush == 0 {
			continue
		}
		keys, err := opt.readKeychain()
		if err != nil {
			return nil, err
		}
		at, err := newEndpoint(e.hostConfig, ref, opt, keys, false)
		if err != nil {
			return nil, err
		}
		at.acts = "pull,push"
		at.base.ResponseHeaderTimeout = commitTimeout
		at.base.WriteBufferSize = 64 << 10
		r.hosts = []*endpoint{at}
		return &Destination{r, at}, nil
	}
	return nil, r.fail(nil, "push", fmt.Errorf("no host is configured to push: %w", errdefs.ErrUnavailable))
}

// Close closes idle connections. The destination can still be used.
func (d *Destination) Close() { d.repo.Close() }

// Explain is what [Repository.Explain] is for a pull: the one host that would be written to.
func (d *Destination) Explain() []Plan { return d.repo.Explain() }

// Address tells the repository from all others: the host that is written to, and the path there.
func (d *Destination) Address() string {
	return d.at.host + path.Join("/", d.at.path, d.at.ref.Path)
}

// HasBlob asks whether the repository has a blob.
func (d *Destination) HasBlob(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	resp, err := d.at.get(ctx, http.MethodHead, "blobs", desc.Digest.String(), nil, http.StatusOK)
	return d.has(resp, err, fmt.Sprintf("blob %q", desc.Digest))
}

// HasManifest asks whether the repository has this manifest. With a tag it asks whether the tag stands for it.
func (d *Destination) HasManifest(ctx context.Context, desc ocispec.Descriptor, tag string) (bool, error) {
	id := desc.Digest.String()
	if tag != "" {
		id = tag
	}
	accept := []string{desc.MediaType}
	for _, t := range manifestTypes {
		if t != desc.MediaType {
			accept = append(accept, t)
		}
	}
	header := http.Header{"Accept": {strings.Join(accept, ", ")}}
	resp, err := d.at.get(ctx, http.MethodHead, "manifests", id, header, http.StatusOK)
	has, err := d.has(resp, err, fmt.Sprintf("manifest %q", id))
	if has && resp.Header.Get("Docker-Content-Digest") != desc.Digest.String() {
		return false, nil
	}
	return has, err
}

func (d *Destination) has(resp *http.Response, err error, what string) (bool, error) {
	if err == nil {
		resp.Body.Close()
		return true, nil
	}
	if isStatus(err, http.StatusNotFound) {
		return false, nil
	}
	return false, d.repo.fail(d.at, what, err)
}

// Taken is what a registry said when it took a manifest.
type Taken struct {
	// Subject is the digest of the manifest that the registry now lists this one for, as one with the referrers
	// API does; empty: it knows nothing of referrers, or the manifest names no subject.
	Subject digest.Digest
}

// PutManifest writes a manifest or an index, under a tag if there is one and else by its digest. What it names
// must be there already.
func (d *Destination) PutManifest(ctx context.Context, desc ocispec.Descriptor, data []byte, tag string) (Taken, error) {
	return d.put(ctx, desc, data, tag, nil)
}

// manifestAttempts bounds how often a manifest is put of which the registry does not know all blobs.
const manifestAttempts = 4

// isBlobUnknown tells whether a registry turned a manifest down for blobs that it does not know. They may be there a moment
// later: a store that is eventually consistent does not show at once what was written, and docker-registry on files misses a
// blob while another push writes its link.
func isBlobUnknown(err error) bool {
	var e *transport.Error
	return errors.As(err, &e) && slices.ContainsFunc(e.Errors, func(d transport.Diagnostic) bool {
		return d.Code == transport.ManifestBlobUnknownErrorCode || d.Code == transport.BlobUnknownErrorCode
	})
}

// put is PutManifest with a condition (RFC 9110 section 13.1). Where it does not hold the error is errdefs.ErrAborted.
func (d *Destination) put(ctx context.Context, desc ocispec.Descriptor, data []byte, tag string, condition http.Header) (Taken, error) {
	id := desc.Digest.String()
	if tag != "" {
		id = tag
	}
	what := fmt.Sprintf("put manifest %q", id)
	client, _, err := d.at.connect(ctx)
	if err != nil {
		return Taken{}, d.repo.fail(d.at, what, err)
	}
	header := http.Header{"Content-Type": {desc.MediaType}}
	maps.Copy(header, condition)
	address := d.at.url(d.at.scheme, "manifests", id)
	var resp *http.Response
	for n := 1; ; n++ {
		resp, err = d.at.send(ctx, client, http.MethodPut, address, header, bytes.NewReader(data),
			http.StatusCreated, http.StatusOK, http.StatusAccepted, http.StatusNoContent)
		if err == nil {
			break
		}
		if n < manifestAttempts && isBlobUnknown(err) && d.at.retry.wait(ctx, n, err) == nil {
			continue
		}
		return Taken{}, d.repo.fail(d.at, what, err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != desc.Digest.String() && digest.Digest(got).Validate() == nil &&
		digest.Digest(got).Algorithm() == desc.Digest.Algorithm() {
		return Taken{}, d.repo.fail(d.at, what, fmt.Errorf("the registry keeps it as %s, which is another manifest than %s: %w", got, desc.Digest, errdefs.ErrUnknown))
	}
	taken := Taken{Subject: digest.Digest(resp.Header.Get("OCI-Subject"))}
	if taken.Subject.Validate() != nil {
		taken.Subject = ""
	}
	return taken, nil
}

// Tagged is what a tag stood for when it was read.
type Tagged struct {
	Descriptor ocispec.Descriptor
	Data       []byte
	etag       string
}

// Tagged reads the manifest that a tag of the repository stands for. No such tag is errdefs.ErrNotFound.
func (d *Destination) Tagged(ctx context.Context, tag string) (Tagged, error) {
	t, err := d.tagged(ctx, tag)
	if err != nil {
		return t, d.repo.fail(d.at, fmt.Sprintf("manifest %q", tag), err)
	}
	return t, nil
}

func (d *Destination) tagged(ctx context.Context, tag string) (t Tagged, err error) {
	header := http.Header{"Accept": {strings.Join(manifestTypes, ", ")}}
	for n := 1; ; n++ {
		resp, err := d.at.get(ctx, http.MethodGet, "manifests", tag, header, http.StatusOK)
		if err != nil {
			return t, err
		}
		t.Data, err = readBounded(resp)
		if err == nil {
			t.etag = resp.Header.Get("ETag")
			if strings.HasPrefix(t.etag, "W/") {
				t.etag = "" // a weak one makes no condition (RFC 9110 section 13.1.1)
			}
			t.Descriptor, err = descriptorOf(resp, digest.Canonical, t.Data)
			return t, err
		}
		if !isBroken(err) || n >= d.at.retry.attempts {
			return t, err
		}
		if err := d.at.retry.pause(ctx, backOff(n)); err != nil {
			return t, err
		}
	}
}

// Replace writes a manifest or an index under a tag in place of what was read there; the zero value: nothing was. If the tag
// stands for something else by now, registries that know conditions (RFC 9110 section 13.1) leave it, which is errdefs.ErrAborted.
// With others, and without was, the last one that writes wins.
func (d *Destination) Replace(ctx context.Context, desc ocispec.Descriptor, data []byte, tag string, was *Tagged) error {
	condition := http.Header{}
	switch {
	case was == nil:
	case was.Descriptor.Digest == "":
		condition.Set("If-None-Match", "*")
	case was.etag != "":
		condition.Set("If-Match", was.etag)
	}
	_, err := d.put(ctx, desc, data, tag, condition)
	return err
}

// location reads where an answer says that an upload goes on. It may be relative, or on another host, which is
// then sent no credentials. An address of this host is never one of a weaker scheme: proxies that end TLS let
// registries believe that they are reached without.
func (d *Destination) location(resp *http.Response) (*url.URL, error) {
	u, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("it does not say where to upload to: %w: %w", err, errdefs.ErrUnknown)
	}
	if u.Host == d.at.host && u.Scheme == "http" {
		u.Scheme = d.at.scheme
	}
	u.User = nil
	return u, nil
}

// mounting makes the client that may mount blobs of another repository of this host. Its token is for both, and
// no other request uses it: a token server may turn down the whole of such a question.
func (d *Destination) mounting(ctx context.Context, from string) (*http.Client, error) {
	if _, _, err := d.at.connect(ctx); err != nil {
		return nil, err
	}
	d.at.mu.Lock()
	defer d.at.mu.Unlock()
	c, ok := d.at.mounts[from]
	if !ok {
		c = d.at.loggedIn(scope(d.at.ref.Path, d.at.acts), scope(from, "pull"))
		if d.at.mounts == nil {
			d.at.mounts = map[string]*http.Client{}
		}
		d.at.mounts[from] = c
	}
	return c, nil
}
