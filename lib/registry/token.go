// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	maxToken  = 1 << 20          // bytes of a token server's answer
	leastLife = 60 * time.Second // of a token that does not say how long it lives
	clientID  = "ctrd"
)

// token is what a token server gave.
type token struct {
	value, refresh string
	until          time.Time
}

// tokenFetcher asks token servers, which the registry of one host names, as Docker's registry token and
// OAuth2 specifications say (distribution.github.io/distribution/spec/auth).
type tokenFetcher struct {
	host   string            // of the registry
	plain  bool              // plain HTTP is acceptable
	inner  http.RoundTripper // as to the registry, but to no link-local address
	header http.Header       // that was configured for the registry's host, and goes to no other
}

// fetch gets a token for the scopes. An identity token is exchanged by OAuth2, a password is sent by
// GET, and by OAuth2 to a server that knows no GET.
func (f *tokenFetcher) fetch(ctx context.Context, c challenge, cred credential, scopes []string) (token, error) {
	realm, err := f.realm(c.params["realm"])
	if err != nil {
		return token{}, fmt.Errorf("token server: %w", err)
	}
	form := url.Values{}
	if s := c.params["service"]; s != "" {
		form.Set("service", s)
	}
	var data []byte
	switch {
	case cred.identity != "":
		data, err = f.post(ctx, realm, form, scopes, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {cred.identity}})
	default:
		data, err = f.get(ctx, realm, form, scopes, cred)
		if cred.username != "" && isStatus(err, http.StatusNotFound, http.StatusMethodNotAllowed) {
			data, err = f.post(ctx, realm, form, scopes, url.Values{
				"grant_type": {"password"}, "username": {cred.username}, "password": {cred.password},
			})
		}
	}
	if err != nil {
		return token{}, tokenError(realm, err)
	}
	t, err := parseToken(data, time.Now())
	if err != nil {
		return token{}, tokenError(realm, err)
	}
	return t, nil
}

// tokenServerError says that it was the token server that did not do its part.
type tokenServerError struct {
	host string
	err  error
}

func (e *tokenServerError) Error() string { return fmt.Sprintf("token server %q: %v", e.host, e.err) }
func (e *tokenServerError) Unwrap() error { return e.err }

// tokenError keeps the kind and the status of an error, and says who answered.
func tokenError(realm *url.URL, err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // its address may hold what only the two servers should know
	}
	return &tokenServerError{realm.Host, err}
}

func isStatus(err error, codes ...int) bool {
	var e *transport.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.StatusCode == c {
			return true
		}
	}
	return false
}

func (f *tokenFetcher) get(ctx context.Context, realm *url.URL, form url.Values, scopes []string, cred credential) ([]byte, error) {
	u := *realm
	q := u.Query()
	for k, v := range form {
		q[k] = v
	}
	if len(scopes) > 0 {
		q["scope"] = scopes
	}
	if cred.username != "" {
		q.Set("account", cred.username)
	}
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if cred.username != "" {
		req.Header.Set("Authorization", basicHeader(cred))
	}
	return f.do(req)
}

func basicHeader(c credential) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.username+":"+c.password))
}

func (f *tokenFetcher) post(ctx context.Context, realm *url.URL, form url.Values, scopes []string, grant url.Values) ([]byte, error) {
	for k, v := range form {
		grant[k] = v
	}
	grant.Set("client_id", clientID)
	if len(scopes) > 0 {
		grant.Set("scope", strings.Join(scopes, " "))
	}
	body := grant.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return f.do(req)
}

func (f *tokenFetcher) do(req *http.Request) ([]byte, error) {
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	if req.URL.Host == f.host {
		for k, v := range f.header {
			if req.Header.Get(k) == "" {
				req.Header[k] = v
			}
		}
	}
	client := &http.Client{Transport: f.inner, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if _, err := f.realm(next.URL.String()); err != nil {
			return err
		}
		if next.Method == http.MethodPost && next.URL.Host != via[0].URL.Host {
			return fmt.Errorf("a password is not sent on to %q: %w", next.URL.Host, errdefs.ErrPermissionDenied)
		}
		return stayHome(f.header)(next, via)
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return nil, withRetryAfter(err, resp)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxToken))
}

// parseToken reads a token server's answer.
func parseToken(data []byte, now time.Time) (token, error) {
	var a struct {
		Token        string `json:"token"`
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		ExpiresIn    int64  `json:"expires_in"`
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return token{}, fmt.Errorf("its answer is no token: %w", errdefs.ErrUnknown)
	}
	t := token{value: a.Token, refresh: a.RefreshToken}
	if t.value == "" {
		t.value = a.AccessToken
	}
	if t.value == "" || strings.ContainsFunc(t.value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return token{}, fmt.Errorf("its answer has no usable token: %w", errdefs.ErrUnknown)
	}
	life := leastLife
	if a.ExpiresIn > 0 && a.ExpiresIn < 1<<31 {
		life = max(life, time.Duration(a.ExpiresIn)*time.Second)
	}
	t.until = now.Add(life - life/10)
	return t, nil
}

// realm checks the address of a token server, which an outside server has named. Plain HTTP is for
// registries that are reached by it. Loopback and private addresses are for registries that the user named
// by such an address; link-local ones, where clouds keep the secrets of their machines, are for nobody.
func (f *tokenFetcher) realm(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("address %q: %w", oneLine(s), errdefs.ErrInvalidArgument)
	}
	u.User = nil
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && f.plain:
	case u.Scheme == "http":
		return nil, fmt.Errorf("%w by %q: %w", errPlainHTTP, u.Host, errdefs.ErrUnavailable)
	default:
		return nil, fmt.Errorf("address %q: %w", oneLine(s), errdefs.ErrInvalidArgument)
	}
	if u.Host == f.host {
		return u, nil
	}
	if near := nearness(u.Host); near > nearness(f.host) || near == forbidden {
		return nil, fmt.Errorf("%q is a %s address, which a registry elsewhere may not name: %w", u.Host, near, errdefs.ErrPermissionDenied)
	}
	return u, nil
}

// near says how close to this machine an address is.
type near int

const (
	public near = iota
	private
	loopback
	forbidden
)

func (n near) String() string {
	return [...]string{"public", "private", "loopback", "link-local"}[n]
}

// metadata is the address of Amazon's instance metadata, which is not link-local.
var metadata = netip.MustParseAddr("fd00:ec2::254")

// nearness classifies host[:port]. A name is public unless it is one of this machine.
func nearness(host string) near {
	if isLoopback(host) {
		return loopback
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return public
	}
	return nearnessOf(addr)
}

func nearnessOf(addr netip.Addr) near {
	addr = addr.Unmap().WithZone("")
	switch {
	case addr.IsLinkLocalUnicast(), addr.IsMulticast(), addr.IsUnspecified(), addr == metadata:
		return forbidden
	case addr.IsLoopback():
		return loopback
	case addr.IsPrivate():
		return private
	}
	return public
}

// refuseLinkLocal is a [net.Dialer]'s control that connects to no link-local address, whatever name led
// there.
func refuseLinkLocal(_, address string, _ syscall.RawConn) error {
	addr, err := netip.ParseAddrPort(address)
	if err == nil && nearnessOf(addr.Addr()) == forbidden {
		return fmt.Errorf("%q is a link-local address: %w", address, errdefs.ErrPermissionDenied)
	}
	return nil
}
