// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

const (
	dialTimeout   = 30 * time.Second
	tlsTimeout    = 20 * time.Second
	headerTimeout = 60 * time.Second
	maxRedirects  = 10
	userAgent     = "ctrd"
)

// newTransport makes the connections. It stays with HTTP/1.1: the ranges of one layer shall travel on
// connections of their own, and HTTP/2 would put them all on one.
func newTransport(opt Options) (*http.Transport, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: opt.Insecure}
	if opt.CAFile != "" {
		pem, err := os.ReadFile(opt.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %q: no PEM certificate in it: %w", opt.CAFile, errdefs.ErrInvalidArgument)
		}
		conf.RootCAs = pool
	}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       conf,
		TLSHandshakeTimeout:   tlsTimeout,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       60 * time.Second,
		MaxIdleConnsPerHost:   32,
		// A blob is kept as it was pushed: nothing may unpack it on the way.
		DisableCompression: true,
		ReadBufferSize:     64 << 10,
	}, nil
}

// guard decides over plain HTTP, below everything that knows of credentials.
type guard struct {
	inner http.RoundTripper
	host  string // the registry
	plain bool   // plain HTTP is acceptable
	force bool   // and is what the registry speaks
}

var errPlainHTTP = errors.New("plain HTTP refused")

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(in *http.Request) (*http.Response, error) {
	in.Header.Set("User-Agent", userAgent)
	if g.force && in.URL.Scheme == "https" && in.URL.Host == g.host {
		out := in.Clone(in.Context())
		out.URL.Scheme = "http"
		return g.inner.RoundTrip(out)
	}
	if in.URL.Scheme == "http" && !g.plain && !isLoopback(in.URL.Host) {
		return nil, fmt.Errorf("%w by %q: %w", errPlainHTTP, in.URL.Host, errdefs.ErrUnavailable)
	}
	return g.inner.RoundTrip(in)
}

// checkRedirect bounds redirects. That they carry no credentials is the work of net/http, which drops
// the header for another host, and of the layer that adds it, which looks at the host.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	return nil
}

// isLoopback tells whether host[:port] names this machine: localhost, *.localhost, 127.0.0.0/8, ::1.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
