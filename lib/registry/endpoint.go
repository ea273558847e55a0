// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"ctrd.dev/ctrd/lib/reference"
)

// endpoint is one host that may be asked for the repository: the registry itself, or one that stands in
// for it.
type endpoint struct {
	hostConfig
	ref   reference.Reference
	acts  string // what a token is asked for: pull, or pull,push
	last  bool   // no other host can be asked instead
	opt   Options
	base  *http.Transport
	calm  *patience
	retry *retry
	creds func() (credential, error)

	mu     sync.Mutex              // guards what follows
	client *http.Client            // nil until the scheme is known
	bare   *http.Client            // for other hosts' addresses
	given  error                   // why it is asked no more
	mounts map[string]*http.Client // by the repository whose blobs they may mount
}

// newEndpoint prepares a host. A certificate that cannot be read is errdefs.ErrInvalidArgument.
func newEndpoint(c hostConfig, ref reference.Reference, opt Options, keys *keychain, spare bool) (*endpoint, error) {
	base, err := newTransport(opt, c)
	if err != nil {
		return nil, err
	}
	if len(opt.Header) > 0 && canonicalHost(c.host) == canonicalHost(ref.Domain) {
		given := c.header.Clone()
		if given == nil {
			given = http.Header{}
		}
		for k, v := range opt.Header {
			given.Set(k, v)
		}
		c.header = given
	}
	e := &endpoint{hostConfig: c, ref: ref, acts: "pull", last: !spare, opt: opt, base: base}
	e.calm = &patience{inner: base, time: idleTimeout}
	e.retry = &retry{inner: e.calm, attempts: attempts, longest: longestRetry, pause: sleep}
	e.retry.left.Store(int64(retryBudget))
	if spare {
		// Another host is asked sooner than this one is waited for.
		e.calm.time, e.calm.least = spareTimeout, sparePace
		e.base.ResponseHeaderTimeout = spareTimeout
		e.retry.attempts, e.retry.longest, e.retry.hasty = 2, 0, true
	}
	e.creds = func() (credential, error) { return e.credential(keys) }
	return e, nil
}

// credential finds what to log in with. A password that the user typed is for the registry that the
// reference names, and for no other host.
func (e *endpoint) credential(keys *keychain) (credential, error) {
	if e.opt.Ask != nil {
		c, err := e.opt.Ask(e.host)
		return credential{c.Username, c.Password, c.IdentityToken, c.Token, "given by the client"}, err
	}
	if e.opt.Username != "" || e.opt.Password != "" {
		if canonicalHost(e.host) != canonicalHost(e.ref.Domain) {
			return credential{}, nil
		}
		return credential{username: e.opt.Username, password: e.opt.Password, source: "given with the command"}, nil
	}
	// A host that serves registries below paths has its credentials by these paths.
	prefix := strings.Trim(strings.TrimPrefix(strings.TrimSuffix(e.path, "/v2"), "/v2"), "/")
	c, err := keys.find(e.host, path.Join(prefix, e.ref.Path))
	if err != nil {
		return c, fmt.Errorf("credentials: %w", err)
	}
	return c, nil
}

// isProxy tells whether the host stands in for another registry, which it is then told the name of.
func (e *endpoint) isProxy() bool { return canonicalHost(e.host) != canonicalHost(e.ref.Domain) }

// url is the address of something below the repository.
func (e *endpoint) url(scheme, kind, id string) string {
	u := url.URL{Scheme: scheme, Host: e.host, Path: path.Join("/", e.path, e.ref.Path, kind, id)}
	if e.isProxy() {
		u.RawQuery = url.Values{"ns": {e.ref.Domain}}.Encode()
	}
	return u.String()
}

// connect learns, once, how the host wants to be talked to.
func (e *endpoint) connect(ctx context.Context) (client, bare *http.Client, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, e.bare, nil
	}
	if e.scheme == "" {
		if e.scheme, err = e.probe(ctx); err != nil {
			return nil, nil, err
		}
	}
	e.client = e.loggedIn(scope(e.ref.Path, e.acts))
	e.bare = &http.Client{Transport: e.guarded(), CheckRedirect: stayHome(e.header)}
	return e.client, e.bare, nil
}

// scope is what a token server is asked for (distribution.github.io/distribution/spec/auth/scope).
func scope(repository, actions string) string { return "repository:" + repository + ":" + actions }

func (e *endpoint) guarded() *guard { return &guard{inner: e.retry, plain: e.scheme == "http"} }

// loggedIn makes a client whose tokens are for these scopes. The scheme must be known.
func (e *endpoint) loggedIn(scopes ...string) *http.Client {
	g := e.guarded()
	f := &tokenFetcher{host: e.host, plain: g.plain, inner: e.tokenTransport(), header: e.header}
	l := &login{inner: g, host: e.host, scheme: e.scheme, find: e.creds, fetcher: f, first: scopes}
	return &http.Client{Transport: l, CheckRedirect: stayHome(e.header)}
}

// tokenTransport makes the connections to token servers. They have the certificates of the host, and are
// not made to link-local addresses.
func (e *endpoint) tokenTransport() http.RoundTripper {
	base := e.base.Clone()
	base.DialContext = (&net.Dialer{Timeout: dialTimeout, Control: refuseLinkLocal}).DialContext
	base.DisableKeepAlives = true // one question an hour
	r := &retry{inner: &patience{inner: base, time: e.calm.time}, attempts: e.retry.attempts, longest: e.retry.longest, hasty: e.retry.hasty, pause: e.retry.pause}
	r.left.Store(int64(retryBudget))
	return r
}

// probe finds out whether the host speaks TLS, which only hosts of this machine and those that are
// configured for both are asked.
func (e *endpoint) probe(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "https", Host: e.host, Path: "/v2/"}).String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := e.base.RoundTrip(req)
	switch {
	case err == nil:
		resp.Body.Close()
		return "https", nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case speaksTLS(err):
		return "https", nil
	}
	return "http", nil
}

// speaksTLS tells whether a failed handshake was one between two that speak TLS.
func speaksTLS(err error) bool {
	var record tls.RecordHeaderError
	if errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch) {
		return false
	}
	return strings.Contains(err.Error(), "tls: ") // the package's alerts have no type
}

// get sends one request about the repository and gives the answer when its status is one of codes.
func (e *endpoint) get(ctx context.Context, method, kind, id string, header http.Header, codes ...int) (*http.Response, error) {
	client, _, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	return e.send(ctx, client, method, e.url(e.scheme, kind, id), header, nil, codes...)
}

// send is get of any address that the host has named, with a body if there is one. Another host is sent nothing that was
// configured for this one.
func (e *endpoint) send(ctx context.Context, client *http.Client, method, address string, header http.Header, body io.Reader, codes ...int) (*http.Response, error) {
	to, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	all := http.Header{}
	if to.Host == e.host && to.Scheme == e.scheme {
		maps.Copy(all, e.header)
	}
	maps.Copy(all, header)
	resp, err := do(ctx, client, method, address, all, body, codes...)
	if err == nil {
		e.opt.hear(e.host, resp.Header)
	}
	return resp, err
}

// do sends a request. A body of this package's own kind says its length and is sent once, see outgoing.
func do(ctx context.Context, client *http.Client, method, url string, header http.Header, body io.Reader, codes ...int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	if o, ok := body.(*outgoing); ok {
		req.ContentLength = o.length
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity") // of a blob's bytes, every one counts
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

// giveUp says that the host is asked no more, unless it is the last. It reports whether it was.
func (e *endpoint) giveUp(cause error) bool {
	if e.last {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.given == nil {
		e.given = cause
	}
	e.opt.Outages.add(e.host, cause)
	return true
}

// givenUp is why the host is asked no more, or nil.
func (e *endpoint) givenUp() error {
	if e.last {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.given == nil {
		e.given = e.opt.Outages.of(e.host)
	}
	return e.given
}

// each asks the hosts that have the capability, in order, until one has what is wanted. One that fails for
// more than this one thing is not asked again.
func (r *Repository) each(ctx context.Context, need capability, what string, ask func(*endpoint) error) error {
	var able []*endpoint
	var before []error
	for _, e := range r.hosts {
		if e.caps&need == 0 {
			continue
		}
		if err := e.givenUp(); err != nil {
			before = append(before, err)
			continue
		}
		able = append(able, e)
	}
	if len(able) == 0 {
		return r.fail(nil, what, fmt.Errorf("no host is configured to %s: %w", need, errdefs.ErrUnavailable))
	}
	for i, e := range able {
		err := ask(e)
		if err == nil {
			return nil
		}
		err = r.fail(e, what, err)
		if ctx.Err() != nil || i == len(able)-1 {
			return withTried(err, before)
		}
		if !errdefs.IsNotFound(err) {
			e.giveUp(err)
		}
		before = append(before, err)
	}
	return nil
}

// withTried adds what the hosts before the last one said.
func withTried(err error, before []error) error {
	var e *Error
	if errors.As(err, &e) && len(before) > 0 {
		e.Before = before
	}
	return err
}
