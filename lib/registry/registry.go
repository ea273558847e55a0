// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Options says how to reach a registry. The zero value is HTTPS with the system's certificates and the
// credentials of the user's docker configuration.
type Options struct {
	PlainHTTP bool   // speak HTTP instead of HTTPS
	Insecure  bool   // accept any certificate
	CAFile    string // PEM certificates to trust beside the system's
	// AuthFile is a docker config.json to take credentials from; empty: $DOCKER_CONFIG,
	// ~/.docker/config.json, $REGISTRY_AUTH_FILE, containers/auth.json.
	AuthFile string
	// Username and Password, when set, are used instead of any file.
	Username, Password string
}

// Repository is the repository of one image reference. Its methods may be called at the same time.
type Repository struct {
	ref    name.Reference
	opt    Options
	keys   *keychain
	plain  bool // HTTP is acceptable
	retry  *retry
	base   *http.Transport
	idle   *patience
	whole  atomic.Bool
	mu     sync.Mutex // guards client and last
	client *http.Client
	last   body // the manifest that Resolve had to read
}

// Open prepares to read the repository of ref (registry/repository[:tag][@digest], docker.io when no
// registry is named). Nothing is sent before the first use. A file of the options that cannot be read is
// errdefs.ErrInvalidArgument.
func Open(ref string, opt Options) (*Repository, error) {
	r, err := name.ParseReference(ref, name.WeakValidation)
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	base, err := newTransport(opt)
	if err != nil {
		return nil, err
	}
	keys, err := opt.readKeychain()
	if err != nil {
		return nil, err
	}
	host := r.Context().RegistryStr()
	if isLoopback(host) && !opt.PlainHTTP {
		// The library tries HTTPS first and then HTTP for a name that is marked so.
		if r, err = name.ParseReference(ref, name.WeakValidation, name.Insecure); err != nil {
			return nil, fmt.Errorf("image reference %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
		}
	}
	calm := &patience{inner: base, time: idleTimeout}
	return &Repository{
		ref: r, opt: opt, keys: keys, base: base, idle: calm,
		plain: opt.PlainHTTP || isLoopback(host),
		retry: &retry{inner: calm, attempts: attempts, pause: sleep},
	}, nil
}

// Close closes idle connections. The repository can still be used.
func (r *Repository) Close() { r.base.CloseIdleConnections() }

// Host is the registry's host, with its port when one was given.
func (r *Repository) Host() string { return r.ref.Context().RegistryStr() }

// Name is the repository's name within the registry.
func (r *Repository) Name() string { return r.ref.Context().RepositoryStr() }

// Ranges tells whether the registry may be asked for parts of a blob. It turns false when a request
// for a part has been answered with the whole.
func (r *Repository) Ranges() bool { return !r.whole.Load() }

// connect learns how the registry wants to be talked to and, once, logs in.
func (r *Repository) connect(ctx context.Context) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	auth, err := r.credentials()
	if err != nil {
		return nil, fmt.Errorf("registry %q: credentials: %w", r.Host(), err)
	}
	host := r.Host()
	g := &guard{inner: r.retry, host: host, plain: r.plain, force: r.opt.PlainHTTP}
	scopes := []string{r.ref.Scope(transport.PullScope)}
	rt, err := transport.NewWithContext(ctx, r.ref.Context().Registry, auth, g, scopes)
	if err != nil {
		return nil, r.fail("log in", err, true)
	}
	r.client = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
	return r.client, nil
}

// url is the address of something below the repository. The scheme is put right by the transport.
func (r *Repository) url(kind, id string) string {
	return fmt.Sprintf("https://%s/v2/%s/%s/%s", r.Host(), r.Name(), kind, id)
}

// get sends one request and gives the answer when its status is one of codes.
func (r *Repository) get(ctx context.Context, method, url string, header http.Header, codes ...int) (*http.Response, error) {
	client, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	return do(ctx, client, method, url, header, codes...)
}

func do(ctx context.Context, client *http.Client, method, url string, header http.Header, codes ...int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, codes...); err != nil {
		resp.Body.Close()
		return nil, withRetryAfter(err, resp)
	}
	return resp, nil
}

// credentials finds what to log in with at the registry, or authn.Anonymous. Credential helpers that a
// configuration file names are run.
func (r *Repository) credentials() (authn.Authenticator, error) {
	if r.opt.Username != "" || r.opt.Password != "" {
		return authn.FromConfig(authn.AuthConfig{Username: r.opt.Username, Password: r.opt.Password}), nil
	}
	c, err := r.keys.find(r.Host(), r.Name())
	if err != nil || c.none() {
		return authn.Anonymous, err
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: c.username, Password: c.password, IdentityToken: c.identity, RegistryToken: c.token,
	}), nil
}
