// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func demandBasic(user, pass string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u != user || p != pass {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(401)
			return true
		}
		return false
	}
}

func TestBasicAuth(t *testing.T) {
	f := newFront()
	want, _ := push(t, f.next, "v1", noise(10))
	f.wrap = demandBasic("user", "secret")
	host := serve(t, f)
	_, err := open(t, host+"/test/repo:v1", Options{}).Resolve(context.Background())
	if !errdefs.IsUnauthorized(err) || !strings.Contains(hint(err), "config.json") {
		t.Errorf("without credentials: %v", err)
	}
	_, err = open(t, host+"/test/repo:v1", Options{Username: "user", Password: "other"}).Resolve(context.Background())
	if !errdefs.IsUnauthorized(err) || strings.Contains(err.Error(), "other") {
		t.Errorf("with wrong credentials: %v", err)
	}
	conf := []byte(`{"auths":{"` + host + `":{"auth":"dXNlcjpzZWNyZXQ="}}}`)
	file := filepath.Join(t.TempDir(), "auth.json")
	os.WriteFile(file, conf, 0o600)
	if got, err := open(t, host+"/test/repo:v1", Options{AuthFile: file}).Resolve(context.Background()); err != nil || got.Digest != want.Digest {
		t.Errorf("with an auth file: %v", err)
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, file := range []string{".docker/config.json", ".config/containers/auth.json"} {
		path := filepath.Join(home, file)
		os.MkdirAll(filepath.Dir(path), 0o700)
		os.WriteFile(path, conf, 0o600)
		r, err := Open(parseRef(host+"/test/repo:v1"), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Resolve(context.Background()); err != nil {
			t.Errorf("with %s: %v", file, err)
		}
		r.Close()
		os.Remove(path)
	}
}

func TestCredentialHelper(t *testing.T) {
	f := newFront()
	push(t, f.next, "v1", noise(10))
	f.wrap = demandBasic("user", "secret")
	host := serve(t, f)
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "docker-credential-ctrdtest"), []byte("#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n"), 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	file := filepath.Join(dir, "config.json")
	os.WriteFile(file, []byte(`{"credHelpers":{"`+host+`":"ctrdtest"}}`), 0o600)
	if _, err := open(t, host+"/test/repo:v1", Options{AuthFile: file}).Resolve(context.Background()); err != nil {
		t.Error(err)
	}
}

// A bearer login: the token server sees the password, the host that blobs are redirected to sees
// neither password nor token.
func TestTokenAndRedirect(t *testing.T) {
	f := newFront()
	data := noise(5000)
	_, blob := push(t, f.next, "v1", data)
	var foreign, tokens []string
	other := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		foreign = append(foreign, r.Header.Get("Authorization")+r.Header.Get("Cookie"))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	var host string
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			u, p, _ := r.BasicAuth()
			tokens = append(tokens, u+":"+p+" "+r.URL.Query().Get("scope"))
			fmt.Fprint(w, `{"token":"the-token"}`)
			return true
		}
		if r.Header.Get("Authorization") != "Bearer the-token" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+host+`/token",service="s"`)
			w.WriteHeader(401)
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, "http://"+other+"/blob?sig=1", http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	host = serve(t, f)
	r := open(t, host+"/test/repo:v1", Options{Username: "u", Password: "p"})
	if _, err := r.Resolve(context.Background()); err != nil {
		t.Fatal(err)
	}
	got, err := readBlob(r, blob, 1000, 1000)
	if err != nil || !bytes.Equal(got, data[1000:2000]) {
		t.Fatal(err)
	}
	if len(foreign) != 1 || foreign[0] != "" {
		t.Errorf("the redirect's host saw %q", foreign)
	}
	if len(tokens) != 1 || tokens[0] != "u:p repository:test/repo:pull" {
		t.Errorf("the token server saw %q", tokens)
	}
}

func TestTLS(t *testing.T) {
	f := newFront()
	want, blob := push(t, f.next, "v1", noise(10))
	s := httptest.NewUnstartedServer(f)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "https://")
	_, err := open(t, host+"/test/repo:v1", Options{}).Resolve(context.Background())
	if !errdefs.IsUnavailable(err) || !strings.Contains(hint(err), "--ca-file") {
		t.Errorf("unknown authority: %v", err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600)
	for _, opt := range []Options{{CAFile: ca}, {Insecure: true}} {
		r := open(t, host+"/test/repo:v1", opt)
		if got, err := r.Resolve(context.Background()); err != nil || got.Digest != want.Digest {
			t.Errorf("%+v: %v", opt, err)
		}
		if _, err := readBlob(r, blob, 0, -1); err != nil {
			t.Errorf("%+v: %v", opt, err)
		}
	}
	os.WriteFile(ca, []byte("nothing"), 0o600)
	if _, err := Open(parseRef(host+"/test/repo"), Options{CAFile: ca}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no certificate: %v", err)
	}
}

func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	os.WriteFile(broken, []byte("{"), 0o600)
	for _, path := range []string{filepath.Join(dir, "none"), dir, broken} {
		for option, opt := range map[string]Options{"--ca-file": {CAFile: path}, "--authfile": {AuthFile: path}} {
			_, err := Open(parseRef("registry.example/test/repo"), opt)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), fmt.Sprintf("%s %q: ", option, path)) || strings.Count(err.Error(), path+`"`) != 1 {
				t.Errorf("%v", err)
			}
		}
	}
}

// An HTTPS registry may not send us to plain HTTP elsewhere, not even on this machine, and a private address
// is not taken for a registry that speaks HTTP.
func TestNoDowngrade(t *testing.T) {
	for u, refused := range map[string]bool{
		"http://registry.example/v2/": true, "http://10.0.0.1:5000/v2/": true, "http://storage.example/x": true,
		"https://registry.example/v2/": false, "http://127.0.0.9/x": true, "http://[::1]:80/": true, "http://a.localhost:1/": true,
	} {
		for _, plain := range []bool{false, true} {
			g := &guard{inner: failing{}, plain: plain}
			req, _ := http.NewRequest("GET", u, nil)
			_, err := g.RoundTrip(req)
			if errors.Is(err, errPlainHTTP) != (refused && !plain) {
				t.Errorf("%s: %v", u, err)
			}
		}
	}
}

// A registry elsewhere gives the address of a server of this machine, in a redirect and in a descriptor.
func TestSentToLoopback(t *testing.T) {
	f := newFront()
	data := noise(5000)
	_, blob := push(t, f.next, "v1", data)
	reached := 0
	inner := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached++
		w.Write(data)
	}))
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, blob.Digest.String()) {
			http.Redirect(w, r, "http://"+inner+"/blob", http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	s := httptest.NewTLSServer(f)
	defer s.Close()
	r := open(t, "registry.example/test/repo:v1", Options{Insecure: true})
	r.hosts[0].base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "registry.example:443" {
			addr = s.Listener.Addr().String()
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	if _, err := readBlob(r, blob, 0, -1); !errors.Is(err, errPlainHTTP) {
		t.Errorf("redirect: %v", err)
	}
	other := noise(5000)
	foreign := ocispec.Descriptor{Digest: digest.FromBytes(other), Size: 5000, URLs: []string{"http://" + inner + "/layer"}}
	if _, err := readBlob(r, foreign, 0, -1); !errors.Is(err, errPlainHTTP) {
		t.Errorf("descriptor: %v", err)
	}
	if reached > 0 {
		t.Errorf("the server was asked %d times", reached)
	}
}

type failing struct{}

func (failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("reached") }
