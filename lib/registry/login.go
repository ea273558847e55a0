// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// login adds credentials to the requests to one host, and answers its challenges. Requests to any other
// host, to which a redirect leads, carry none of them.
type login struct {
	inner   http.RoundTripper
	host    string // with the port, if it has one
	scheme  string
	first   []string // scopes that a token is asked for at first
	find    func() (credential, error)
	fetcher *tokenFetcher

	mu     sync.Mutex    // held while a token is fetched, so that many requests share one
	found  chan struct{} // closed when cred was looked for
	cred   credential
	failed error
	header string    // Authorization of the next request, or empty
	until  time.Time // the token in header is good for so long; zero: until the host says otherwise
	last   *challenge
	scopes []string
}

// RoundTrip implements http.RoundTripper. An answer of status 401 is given to the caller only when nothing
// that this side has satisfies the host.
func (l *login) RoundTrip(in *http.Request) (*http.Response, error) {
	if in.URL.Host != l.host || in.URL.Scheme != l.scheme {
		return l.elsewhere(in)
	}
	used, err := l.current(in.Context())
	if err != nil {
		return nil, err
	}
	resp, err := l.send(in, used)
	for range 2 {
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			return resp, err
		}
		next, lerr := l.answer(in.Context(), parseChallenges(resp.Header.Values("WWW-Authenticate")), used)
		if lerr != nil || next == "" || next == used {
			if lerr != nil {
				resp.Body.Close()
				return nil, lerr
			}
			return resp, nil
		}
		again, ok := fromStart(in)
		if !ok {
			return resp, nil // the caller alone can send the body again, with the new header
		}
		io.CopyN(io.Discard, resp.Body, drainedAnswer)
		resp.Body.Close()
		used = next
		resp, err = l.send(again, used)
	}
	return resp, err
}

// fromStart gives a request that was sent once as it was before, if its body can be had again.
func fromStart(in *http.Request) (*http.Request, bool) {
	if in.Body == nil || in.Body == http.NoBody {
		return in, true
	}
	if in.GetBody == nil {
		return nil, false
	}
	body, err := in.GetBody()
	if err != nil {
		return nil, false
	}
	in = in.Clone(in.Context())
	in.Body = body
	return in, true
}

// elsewhere sends a request to a host that a redirect leads to. Where that asks for a token, an anonymous
// one is fetched; what the registry's own host is sent never goes there.
func (l *login) elsewhere(in *http.Request) (*http.Response, error) {
	resp, err := l.inner.RoundTrip(in)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	for _, c := range parseChallenges(resp.Header.Values("WWW-Authenticate")) {
		if c.scheme != "bearer" {
			continue
		}
		var scopes []string
		if s := c.params["scope"]; s != "" {
			scopes = []string{s}
		}
		t, err := l.fetcher.fetch(in.Context(), c, credential{}, scopes)
		if err != nil {
			return resp, nil // the host's own answer says more
		}
		again, ok := fromStart(in)
		if !ok {
			return resp, nil
		}
		io.CopyN(io.Discard, resp.Body, drainedAnswer)
		resp.Body.Close()
		return l.send(again, "Bearer "+t.value)
	}
	return resp, nil
}

func (l *login) send(in *http.Request, authorization string) (*http.Response, error) {
	if authorization != "" {
		in = in.Clone(in.Context())
		in.Header.Set("Authorization", authorization)
	}
	return l.inner.RoundTrip(in)
}

// current gives the header to send, with a new token when the old one's time is over.
func (l *login) current(ctx context.Context) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil || l.until.IsZero() || time.Now().Before(l.until) {
		return l.header, nil
	}
	return l.header, l.bearer(ctx, *l.last)
}

// answer satisfies one of the challenges and gives the header to send, or none. used is what the host
// turned down. A token comes before a password that would go out with each request, and before all when
// there is no password.
func (l *login) answer(ctx context.Context, offered []challenge, used string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.header != used {
		return l.header, nil // another request has logged in meanwhile
	}
	if err := l.lookUp(ctx); err != nil {
		return "", err
	}
	basic := slices.ContainsFunc(offered, func(c challenge) bool { return c.scheme == "basic" })
	var failed error
	for _, c := range offered {
		if c.scheme != "bearer" {
			continue
		}
		if failed = l.bearer(ctx, c); failed == nil {
			return l.header, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	if basic && l.cred.username != "" && l.cred.identity == "" && ctx.Err() == nil {
		l.header, l.until, l.last = basicHeader(l.cred), time.Time{}, nil
		return l.header, nil
	}
	return "", failed
}

// lookUp finds the credentials, once. A helper may have to ask the user, so it runs only when a host
// asks for them, and the end of ctx ends the wait for it.
func (l *login) lookUp(ctx context.Context) error {
	if l.found == nil {
		done := make(chan struct{})
		l.found = done
		go func() {
			defer close(done)
			l.cred, l.failed = l.find()
		}()
	}
	select {
	case <-l.found:
		return l.failed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// bearer gets a token for what is asked for so far and what the challenge asks for.
func (l *login) bearer(ctx context.Context, c challenge) error {
	if l.cred.token != "" {
		l.header, l.until, l.last = "Bearer "+l.cred.token, time.Time{}, nil
		return nil
	}
	if len(l.scopes) == 0 {
		l.scopes = slices.Clone(l.first)
	}
	// Some token servers look at the first scope only, so the one that is missing comes first.
	for s := range strings.FieldsSeq(c.params["scope"]) {
		asked := func(scope string) bool { return sameScope(scope, s) }
		if !slices.ContainsFunc(l.scopes, asked) && len(l.scopes) < maxChallenges {
			l.scopes = slices.Insert(l.scopes, 0, s)
		}
	}
	t, err := l.fetcher.fetch(ctx, c, l.cred, l.scopes)
	if err != nil {
		return err
	}
	if t.refresh != "" && l.cred.identity != "" {
		l.cred.identity = t.refresh // the server may have replaced it
	}
	l.header, l.until, l.last = "Bearer "+t.value, t.until, &c
	return nil
}

// sameScope tells whether two scopes are for the same actions, in whatever order.
func sameScope(a, b string) bool {
	actions := func(scope string) (of string, all []string) {
		i := strings.LastIndexByte(scope, ':') + 1
		all = strings.Split(scope[i:], ",")
		slices.Sort(all)
		return scope[:i], all
	}
	ofA, allA := actions(a)
	ofB, allB := actions(b)
	return ofA == ofB && slices.Equal(allA, allB)
}
