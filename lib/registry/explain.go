// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
)

// Plan is how one host would be asked for a repository. It holds no secret.
type Plan struct {
	URL string `json:"url"` // of the repository; HTTPS also where Fallback
	// Fallback says that plain HTTP is spoken where the host speaks no TLS.
	Fallback     bool   `json:"fallback,omitempty"`
	From         string `json:"from"`         // a file or directory, or "default"
	Capabilities string `json:"capabilities"` // names, separated by commas
	// Credentials says where they are from; it is "none", or what went wrong when they were looked for.
	Credentials string   `json:"credentials"`
	CA          []string `json:"ca"` // files that are trusted beside the system's authorities
	Client      []string `json:"client,omitempty"`
	Insecure    bool     `json:"insecure,omitempty"` // any certificate is accepted
	Headers     []string `json:"headers,omitempty"`  // names alone: the values may be secrets
	Proxy       string   `json:"proxy,omitempty"`    // its address, without user and password
	DialTimeout string   `json:"dialTimeout"`
}

// Explain says which hosts would be asked, in order, and how. Nothing is sent. Credential helpers are run.
func (r *Repository) Explain() []Plan {
	var all []Plan
	for _, e := range r.hosts {
		scheme := e.scheme
		if scheme == "" {
			scheme = "https"
		}
		p := Plan{
			URL: e.url(scheme, "", ""), Fallback: e.scheme == "", From: e.from, Capabilities: e.caps.String(),
			CA: append([]string{}, e.caFiles...), Insecure: e.opt.Insecure || e.skipVerify, Headers: slices.Sorted(maps.Keys(e.header)),
			DialTimeout: dialTimeout.String(),
		}
		if e.opt.CAFile != "" {
			p.CA = append([]string{e.opt.CAFile}, p.CA...)
		}
		if e.dialTimeout > 0 {
			p.DialTimeout = e.dialTimeout.String()
		}
		for _, pair := range e.clientPairs {
			p.Client = append(p.Client, pair.cert)
		}
		switch c, err := e.creds(); {
		case err != nil:
			p.Credentials = oneLine(err.Error())
		case c.none():
			p.Credentials = "none"
		default:
			p.Credentials = c.source
		}
		p.Proxy = e.proxy(p.URL)
		all = append(all, p)
	}
	return all
}

// proxy is the proxy that requests to an address go through, or empty.
func (e *endpoint) proxy(address string) string {
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return ""
	}
	u, err := e.base.Proxy(req)
	if err != nil || u == nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
}
