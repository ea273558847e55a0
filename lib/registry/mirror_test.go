// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// hostsFor writes a hosts.toml for a registry and gives the options that lead to it.
func hostsFor(t *testing.T, registry, text string) Options {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, registry)
	os.MkdirAll(dir, 0o755)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Options{HostDirs: []string{root}}
}

// mirrored is a registry with a mirror that has the same image.
func mirrored(t *testing.T, data []byte) (up, mirror *front) {
	up, mirror = newFront(), newFront()
	push(t, up.next, "v1", data)
	push(t, mirror.next, "v1", data)
	return up, mirror
}

func TestMirrorServes(t *testing.T) {
	data := noise(50000)
	up, mirror := mirrored(t, data)
	want, blob := push(t, up.next, "v1", data)
	upHost, mirrorHost := serve(t, up), serve(t, mirror)
	var ns, custom atomic.Value
	mirror.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		ns.Store(r.URL.Query().Get("ns"))
		custom.Store(r.Header.Get("X-Custom"))
		return false
	}
	opt := hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\n[host.%q.header]\nx-custom = \"1\"\n", "http://"+upHost, "http://"+mirrorHost, "http://"+mirrorHost))
	r := open(t, upHost+"/test/repo:v1", opt)
	got, err := r.Resolve(context.Background())
	if err != nil || got.Digest != want.Digest {
		t.Fatal(err)
	}
	if b, err := readBlob(r, blob, 0, -1); err != nil || !bytes.Equal(b, data) {
		t.Fatal(err)
	}
	if up.count("") != 0 || ns.Load() != upHost || custom.Load() != "1" {
		t.Errorf("the registry was asked %q, the mirror was told ns=%v and X-Custom: %v", up.seen, ns.Load(), custom.Load())
	}
}

// What is configured for a host goes nowhere else: not where the host redirects to, be it another port of the same name.
func TestHeadersStay(t *testing.T) {
	up, store := newFront(), newFront()
	data := noise(5000)
	want, blob := push(t, up.next, "v1", data)
	var mu sync.Mutex
	leaked := map[string]string{}
	store.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range []string{"Authorization", "X-Key", "Referer"} {
			if v := r.Header.Get(name); v != "" {
				leaked[name] = v
			}
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Write(data)
		return true
	}
	storeHost := serve(t, store)
	upHost := serve(t, up)
	kept := true
	up.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		kept = kept && r.Header.Get("Authorization") == "Basic configured" && r.Header.Get("X-Key") == "secret"
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, "http://"+storeHost+"/data", http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	r := open(t, upHost+"/test/repo:v1", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[header]\nauthorization = \"Basic configured\"\nx-key = \"secret\"\n", "http://"+upHost)))
	if got, err := r.Resolve(context.Background()); err != nil || got.Digest != want.Digest {
		t.Fatal(err)
	}
	if b, err := readBlob(r, blob, 0, -1); err != nil || !bytes.Equal(b, data) {
		t.Fatal(err)
	}
	if !kept || len(leaked) > 0 || store.count("") == 0 {
		t.Errorf("the host was sent its headers: %v; the other one saw %v", kept, leaked)
	}
}

// Whatever is wrong with a mirror, the registry serves, and the mirror is asked once.
func TestMirrorFails(t *testing.T) {
	data := noise(50000)
	answer := func(status int, header ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			return true
		}
	}
	for name, c := range map[string]struct {
		wrap func(http.ResponseWriter, *http.Request) bool
		most int // requests to the mirror
	}{
		"500":      {answer(500), 2},
		"limit":    {answer(429, "Retry-After", "30"), 1},
		"denied":   {answer(403), 2},
		"login":    {answer(401, "WWW-Authenticate", `Basic realm="r"`), 2},
		"nowhere":  {answer(401, "WWW-Authenticate", `Bearer realm="http://127.0.0.1:1/"`), 2},
		"teapot":   {answer(418), 2},
		"hangs up": {func(w http.ResponseWriter, r *http.Request) bool { panic(http.ErrAbortHandler) }, 2},
		"garbage":  {func(w http.ResponseWriter, r *http.Request) bool { io.WriteString(w, "<html>"); return true }, 2},
	} {
		up, mirror := mirrored(t, data)
		want, blob := push(t, up.next, "v1", data)
		mirror.wrap = c.wrap
		upHost, mirrorHost := serve(t, up), serve(t, mirror)
		r := open(t, upHost+"/test/repo:v1", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+upHost, "http://"+mirrorHost)))
		got, err := r.Resolve(context.Background())
		if err != nil || got.Digest != want.Digest {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for range 3 {
			if b, err := readBlob(r, blob, 0, -1); err != nil || !bytes.Equal(b, data) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := mirror.count(""); n > c.most || n == 0 {
			t.Errorf("%s: the mirror was asked %d times: %q", name, n, mirror.seen)
		}
	}
}

// A mirror that has not this one thing is asked for the next.
func TestMirrorIsIncomplete(t *testing.T) {
	up, mirror := newFront(), newFront()
	data := noise(1000)
	want, blob := push(t, up.next, "v1", data)
	push(t, mirror.next, "other", data)
	upHost, mirrorHost := serve(t, up), serve(t, mirror)
	r := open(t, upHost+"/test/repo:v1", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+upHost, "http://"+mirrorHost)))
	if got, err := r.Resolve(context.Background()); err != nil || got.Digest != want.Digest {
		t.Fatal(err)
	}
	if _, err := readBlob(r, blob, 0, -1); err != nil {
		t.Fatal(err)
	}
	if up.count("GET /v2/test/repo/blobs/") != 0 {
		t.Error("the blob came from the registry")
	}
	absent := open(t, upHost+"/test/repo:none", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+upHost, "http://"+mirrorHost)))
	_, err := absent.Resolve(context.Background())
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "before it \""+mirrorHost) {
		t.Errorf("nobody has it: %v", err)
	}
}

// A dead mirror is told of once, for all images that are read after each other.
func TestOutages(t *testing.T) {
	up, mirror := mirrored(t, noise(10))
	want, _ := push(t, up.next, "v1", noise(10))
	s := httptest.NewServer(mirror)
	mirrorHost := strings.TrimPrefix(s.URL, "http://")
	mirror.wrap = func(w http.ResponseWriter, r *http.Request) bool { panic(http.ErrAbortHandler) }
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	upHost := serve(t, up)
	opt := hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+upHost, "http://"+mirrorHost))
	opt.Outages = &Outages{}
	for range 3 {
		if got, err := open(t, upHost+"/test/repo:v1", opt).Resolve(context.Background()); err != nil || got.Digest != want.Digest {
			t.Fatal(err)
		}
	}
	if n := mirror.count(""); n > 2 {
		t.Errorf("the mirror was asked %d times", n)
	}
}

// A mirror without the capability is not asked; one that may not resolve still gives content.
func TestCapabilities(t *testing.T) {
	data := noise(1000)
	up, mirror := mirrored(t, data)
	_, blob := push(t, up.next, "v1", data)
	upHost, mirrorHost := serve(t, up), serve(t, mirror)
	opt := hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\"]\n", "http://"+upHost, "http://"+mirrorHost))
	r := open(t, upHost+"/test/repo:v1", opt)
	if _, err := r.Resolve(context.Background()); err != nil || mirror.count("") != 0 {
		t.Errorf("%v; the mirror was asked %q", err, mirror.seen)
	}
	if _, err := readBlob(r, blob, 0, -1); err != nil || up.count("GET") != 0 {
		t.Errorf("%v; the registry was asked %q", err, up.seen)
	}
	opt = hostsFor(t, upHost, fmt.Sprintf("server = %q\ncapabilities = [\"push\"]\n", "http://"+upHost))
	if _, err := open(t, upHost+"/test/repo:v1", opt).Resolve(context.Background()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "resolve") {
		t.Errorf("no host may resolve: %v", err)
	}
}

// A transfer that one host breaks off for good goes on at the next, at the byte where it stopped.
func TestFailoverInMidBlob(t *testing.T) {
	data := noise(200000)
	up, mirror := mirrored(t, data)
	_, blob := push(t, up.next, "v1", data)
	mirror.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		if r.Header.Get("Range") != "" {
			w.WriteHeader(503)
			return true
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Write(data[:70000])
		return true
	}
	var rest atomic.Value
	up.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		rest.Store(r.Header.Get("Range"))
		return false
	}
	upHost, mirrorHost := serve(t, up), serve(t, mirror)
	r := open(t, upHost+"/test/repo:v1", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+upHost, "http://"+mirrorHost)))
	got, err := readBlob(r, blob, 0, -1)
	if err != nil || !bytes.Equal(got, data) || rest.Load() != "bytes=70000-199999" {
		t.Errorf("%d bytes, %v, the registry was asked for %v", len(got), err, rest.Load())
	}
}

// A mirror without the blob does not make a registry that always breaks off a transfer without end.
func TestBreaksBehindMirror(t *testing.T) {
	up, mirror := newFront(), newFront()
	data := noise(50000)
	_, blob := push(t, up.next, "v1", data)
	push(t, mirror.next, "v1", noise(10))
	up.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Write(data[:100])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	upHost, mirrorHost := serve(t, up), serve(t, mirror)
	r := open(t, upHost+"/test/repo:v1", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+upHost, "http://"+mirrorHost)))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	body, err := r.Blob(ctx, blob, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err = io.Copy(io.Discard, body); !errdefs.IsUnavailable(err) || ctx.Err() != nil || !strings.Contains(err.Error(), "broke off") {
		t.Errorf("%v after %d requests", err, up.count("GET "))
	}
}

// A mirror that trickles is left for the registry, which goes on where the mirror was.
func TestMirrorIsSlow(t *testing.T) {
	data := noise(200000)
	up, mirror := mirrored(t, data)
	_, blob := push(t, up.next, "v1", data)
	mirror.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := range data {
			w.Write(data[i : i+1])
			w.(http.Flusher).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return true
			}
		}
		return true
	}
	upHost, mirrorHost := serve(t, up), serve(t, mirror)
	r := open(t, upHost+"/test/repo:v1", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+upHost, "http://"+mirrorHost)))
	r.hosts[0].calm.time = 100 * time.Millisecond
	got, err := readBlob(r, blob, 0, -1)
	if err != nil || !bytes.Equal(got, data) || mirror.count("GET /v2/test/repo/blobs/") != 1 {
		t.Errorf("%d bytes, %v, the mirror was asked %q", len(got), err, mirror.seen)
	}
}

// Bytes that turn out wrong are no more asked for at the host that sent them.
func TestDistrust(t *testing.T) {
	data := noise(1000)
	up, mirror := mirrored(t, data)
	_, blob := push(t, up.next, "v1", data)
	mirror.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			w.Write(make([]byte, len(data)))
			return true
		}
		return false
	}
	upHost, mirrorHost := serve(t, up), serve(t, mirror)
	r := open(t, upHost+"/test/repo:v1", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+upHost, "http://"+mirrorHost)))
	if r.Distrust(blob.Digest) {
		t.Error("a host is blamed that sent nothing")
	}
	for _, again := range []bool{true, false} {
		got, err := readBlob(r, blob, 0, -1)
		if err != nil || bytes.Equal(got, data) == again {
			t.Fatal(err)
		}
		if r.Distrust(blob.Digest) != again {
			t.Errorf("another host: %v", !again)
		}
	}
}

// The user's password is for the registry, and a mirror's own credentials are for the mirror.
func TestMirrorCredentials(t *testing.T) {
	up, mirror := mirrored(t, noise(10))
	deny := func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		w.WriteHeader(401)
		return true
	}
	up.wrap, mirror.wrap = deny, deny
	upHost, mirrorHost := serve(t, up), serve(t, mirror)
	opt := hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\noverride_path = true\n", "http://"+upHost, "http://"+mirrorHost+"/v2/proxy"))
	opt.Username, opt.Password = "u", "typed"
	open(t, upHost+"/test/repo:v1", opt).Resolve(context.Background())
	if strings.Join(mirror.auths, "") != "" || !strings.Contains(strings.Join(up.auths, ""), "Basic ") {
		t.Errorf("the mirror saw %q, the registry %q", mirror.auths, up.auths)
	}
	if mirror.seen[0] != "HEAD /v2/proxy/test/repo/manifests/v1" {
		t.Errorf("the mirror was asked %q", mirror.seen)
	}
	file := filepath.Join(t.TempDir(), "auth.json")
	os.WriteFile(file, []byte(authEntries(mirrorHost+"/proxy/test", mirrorHost+"/other", upHost+"/test")), 0o600)
	opt.Username, opt.Password, opt.AuthFile = "", "", file
	mirror.auths, up.auths = nil, nil
	open(t, upHost+"/test/repo:v1", opt).Resolve(context.Background())
	if got := strings.Join(mirror.auths, ""); !strings.HasPrefix(got, basicHeader(credential{username: "user", password: mirrorHost + "/proxy/test"})) {
		t.Errorf("the mirror saw %q", mirror.auths)
	}
	if got := strings.Join(up.auths, ""); !strings.HasPrefix(got, basicHeader(credential{username: "user", password: upHost + "/test"})) {
		t.Errorf("the registry saw %q", up.auths)
	}
}

// A private authority and a client certificate, as hosts.toml and as docker's directory name them.
func TestClientCertificates(t *testing.T) {
	f := newFront()
	want, _ := push(t, f.next, "v1", noise(10))
	dir := t.TempDir()
	pool := clientCertificate(t, dir)
	s := httptest.NewUnstartedServer(f)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "https://")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if _, err := open(t, host+"/test/repo:v1", Options{Insecure: true}).Resolve(context.Background()); !errdefs.IsUnavailable(err) {
		t.Errorf("without a certificate: %v", err)
	}
	toml := hostsFor(t, host, "ca = \"ca.pem\"\nclient = [[\""+dir+"/c.pem\", \""+dir+"/k.pem\"]]\n")
	os.WriteFile(filepath.Join(toml.HostDirs[0], host, "ca.pem"), ca, 0o644)
	docker := hostsFor(t, host, "")
	os.Remove(filepath.Join(docker.HostDirs[0], host, "hosts.toml"))
	for from, to := range map[string]string{"c.pem": "client.cert", "k.pem": "client.key"} {
		data, _ := os.ReadFile(filepath.Join(dir, from))
		os.WriteFile(filepath.Join(docker.HostDirs[0], host, to), data, 0o600)
	}
	os.WriteFile(filepath.Join(docker.HostDirs[0], host, "ca.crt"), ca, 0o644)
	for name, opt := range map[string]Options{"hosts.toml": toml, "docker": docker} {
		if got, err := open(t, host+"/test/repo:v1", opt).Resolve(context.Background()); err != nil || got.Digest != want.Digest {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// clientCertificate writes c.pem and k.pem into dir and gives the pool that trusts them.
func clientCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	cert, _ := certificate(t, dir+"/c.pem", dir+"/k.pem", nil, nil)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// authority writes ca.pem and, signed by it, server.pem and server.key of 127.0.0.1 and 127.0.0.2.
func authority(t *testing.T, dir string) {
	t.Helper()
	ca, key := certificate(t, dir+"/ca.pem", dir+"/ca.key", nil, nil)
	certificate(t, dir+"/server.pem", dir+"/server.key", ca, key)
}

// certificate makes a certificate that the parent signs, or itself where there is none.
func certificate(t *testing.T, certFile, keyFile string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: filepath.Base(certFile)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 2)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: parent == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: plain}), 0o600)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// A mirror that is not there at all, and one that takes connections and says nothing.
func TestMirrorIsDown(t *testing.T) {
	up, _ := mirrored(t, noise(10))
	want, _ := push(t, up.next, "v1", noise(10))
	upHost := serve(t, up)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	var taken atomic.Int32
	go func() {
		for {
			if _, err := silent.Accept(); err != nil {
				return
			}
			taken.Add(1)
		}
	}()
	for _, mirror := range []string{"127.0.0.1:1", silent.Addr().String()} {
		r := open(t, upHost+"/test/repo:v1", hostsFor(t, upHost, fmt.Sprintf("server = %q\n[host.%q]\ndial_timeout = \"1s\"\n", "http://"+upHost, "http://"+mirror)))
		r.hosts[0].base.ResponseHeaderTimeout = 50 * time.Millisecond
		if got, err := r.Resolve(context.Background()); err != nil || got.Digest != want.Digest {
			t.Errorf("%s: %v", mirror, err)
		}
	}
	if taken.Load() > 1 {
		t.Errorf("the silent mirror was asked %d times", taken.Load())
	}
}
