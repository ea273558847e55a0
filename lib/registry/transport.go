// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
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

// newTransport makes the connections to one host. It stays with HTTP/1.1: the ranges of one layer shall
// travel on connections of their own, and HTTP/2 would put them all on one.
func newTransport(opt Options, host hostConfig) (*http.Transport, error) {
	conf, err := tlsConfig(opt, host)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	if host.dialTimeout > 0 {
		dialer.Timeout = host.dialTimeout
	}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
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

// tlsConfig puts together what the options and the host's configuration say of certificates.
func tlsConfig(opt Options, host hostConfig) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: opt.Insecure || host.skipVerify}
	if opt.CAFile != "" {
		pem := opt.ca
		if pem == nil {
			var err error
			if pem, err = readFile(context.Background(), optionCA, opt.CAFile); err != nil {
				return nil, err
			}
		}
		if err := trust(conf, pem, opt.CAFile, optionCA); err != nil {
			return nil, err
		}
	}
	for _, file := range host.caFiles {
		option := host.from + ": ca"
		pem, err := readFile(context.Background(), option, file)
		if err == nil {
			err = trust(conf, pem, file, option)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, pair := range host.clientPairs {
		cert, err := tls.LoadX509KeyPair(pair.cert, pair.key)
		if err != nil {
			return nil, badFile(host.from+": client", pair.cert, err)
		}
		conf.Certificates = append(conf.Certificates, cert)
	}
	return conf, nil
}

// trust adds the certificates of a file to the system's.
func trust(conf *tls.Config, pem []byte, file, option string) error {
	if conf.RootCAs == nil {
		var err error
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			conf.RootCAs = x509.NewCertPool()
		}
	}
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return badFile(option, file, errors.New("no PEM certificate in it"))
	}
	return nil
}

// badFile is the error about a file that an option names.
func badFile(option, path string, err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err // without the path, which is there already
	}
	return fmt.Errorf("%s %q: %w: %w", option, path, err, errdefs.ErrInvalidArgument)
}

// idleTimeout is the time for which the body of an answer may bring no byte.
const idleTimeout = 60 * time.Second

// spareTimeout is idleTimeout, and the time until an answer begins, of a host in whose place another one
// can be asked.
const spareTimeout = 30 * time.Second

// sparePace is how much the body of an answer of such a host must bring in that time, in bytes.
const sparePace = 256 << 10

var (
	errIdle = errors.New("no data")
	errSlow = errors.New("too slow, and another host can be asked")
)

// patience ends a request whose body the peer does not take for a time, and the read of an answer's body that
// brings nothing for a time, with errIdle, or less than least
// bytes in that time of waiting for it, with errSlow.
type patience struct {
	inner http.RoundTripper
	time  time.Duration
	least int64 // 0: any number of bytes will do
}

// RoundTrip implements http.RoundTripper.
func (p *patience) RoundTrip(in *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(in.Context())
	if o, ok := in.Body.(*outgoing); ok {
		o.watch(p.time, func() { cancel(errIdle) })
	}
	resp, err := p.inner.RoundTrip(in.WithContext(ctx))
	if err != nil {
		cancel(err)
		return nil, err
	}
	resp.Body = &watched{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, time: p.time, least: p.least}
	return resp, nil
}

// watched is a body that breaks its request off when it brings nothing.
type watched struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	time   time.Duration
	least  int64
	waited time.Duration // in Read, since got began to count
	got    int64
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	if w.waited >= w.time {
		if w.got < w.least {
			w.cancel(errSlow)
			return 0, errSlow
		}
		w.waited, w.got = 0, 0
	}
	t := time.AfterFunc(w.time, func() { w.cancel(errIdle) })
	defer t.Stop()
	begin := time.Now()
	n, err := w.ReadCloser.Read(p)
	w.waited += time.Since(begin)
	w.got += int64(n)
	if err != nil && err != io.EOF && context.Cause(w.ctx) == errIdle {
		err = errIdle
	}
	return n, err
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.cancel(context.Canceled)
	return w.ReadCloser.Close()
}

// guard decides over plain HTTP, below everything that knows of credentials. It is refused to this machine,
// too, whose servers no manifest or redirect of another one shall reach.
type guard struct {
	inner http.RoundTripper
	plain bool // plain HTTP is acceptable
}

var errPlainHTTP = errors.New("plain HTTP refused")

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(in *http.Request) (*http.Response, error) {
	switch {
	case in.URL.Scheme == "https":
		return g.inner.RoundTrip(in)
	case !g.plain:
		return nil, fmt.Errorf("%w by %q: %w", errPlainHTTP, in.URL.Host, errdefs.ErrUnavailable)
	}
	resp, err := g.inner.RoundTrip(in)
	if err != nil {
		return nil, &plainError{in.URL.Host, err}
	}
	return resp, nil
}

// plainError is about a request that was sent by plain HTTP.
type plainError struct {
	host string
	err  error
}

// Error names the host.
func (e *plainError) Error() string { return fmt.Sprintf("plain HTTP with %q: %v", e.host, e.err) }

// Unwrap gives the cause.
func (e *plainError) Unwrap() error { return e.err }

// stayHome gives an [http.Client]'s check of redirects. It bounds them, and takes from a request to another host what is
// for the first one: these headers, a password, and where it was. What is added below the client is not its business:
// see login.
func stayHome(own http.Header) func(*http.Request, []*http.Request) error {
	return func(next *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		// net/http itself drops a password only, and takes other ports and names below a host's for the host.
		if next.URL.Host != via[0].URL.Host || next.URL.Scheme != via[0].URL.Scheme {
			for name, values := range own {
				if slices.Equal(next.Header[name], values) {
					next.Header.Del(name)
				}
			}
			next.Header.Del("Authorization")
			next.Header.Del("Referer")
		}
		return nil
	}
}

// isLoopback tells whether host[:port] names this machine: localhost, *.localhost, 127.0.0.0/8, ::1.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
