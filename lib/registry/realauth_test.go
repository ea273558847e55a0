// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// putImage pushes an image of one blob.
func putImage(d *Destination, data []byte, tag string) (ocispec.Descriptor, error) {
	m, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: describe(data), Layers: []ocispec.Descriptor{describe(data)},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m))}
	if err := send(d, data); err != nil {
		return desc, err
	}
	_, err = d.PutManifest(context.Background(), desc, m, tag)
	return desc, err
}

// A registry that wants a client certificate gets it from a push and from a pull.
func TestRealRegistryClientCertificate(t *testing.T) {
	dir := t.TempDir()
	clientCertificate(t, dir)
	host, _ := runRegistry(t, dir, fmt.Sprintf(", clientcas: [%q]", dir+"/c.pem"), "")
	ca := fmt.Sprintf("ca = %q\n", dir+"/ca.pem")
	data := noise(2 << 20)
	if _, err := putImage(openPush(t, host+"/test/repo:v1", hostsFor(t, host, ca)), data, "v1"); !errdefs.IsUnavailable(err) {
		t.Errorf("pushed without a certificate: %v", err)
	}
	opt := hostsFor(t, host, ca+fmt.Sprintf("client = [[%q, %q]]\n", dir+"/c.pem", dir+"/k.pem"))
	want, err := putImage(openPush(t, host+"/test/repo:v1", opt), data, "v1")
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, host+"/test/repo:v1", opt)
	if got, err := r.Resolve(context.Background()); err != nil || got.Digest != want.Digest {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := readBlob(r, describe(data), 1000, -1); err != nil || !bytes.Equal(got, data[1000:]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// signer is a token server whose tokens docker-registry verifies. Each ends soon, which the client is not told.
type signer struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	mu     sync.Mutex
	life   time.Duration // of a token
	scopes []string
}

// leeway is the time for which docker-registry takes a token that has ended.
const leeway = time.Minute

func (s *signer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, pass, ok := r.BasicAuth(); !ok || user != "user" || pass != "pass" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	var all []access
	scopes := r.URL.Query()["scope"]
	for _, scope := range scopes {
		if f := strings.Split(scope, ":"); len(f) == 3 {
			all = append(all, access{f[0], f[1], strings.Split(f[2], ",")})
		}
	}
	s.mu.Lock()
	s.scopes = append(s.scopes, strings.Join(scopes, " "))
	life := s.life
	s.mu.Unlock()
	now := time.Now()
	part := func(v any) string {
		data, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(data)
	}
	text := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.cert.Raw)}}) + "." +
		part(map[string]any{
			"iss": "the issuer", "aud": "the registry", "sub": user(r), "jti": rand.Text(), "access": all,
			"nbf": now.Add(-time.Hour).Unix(), "iat": now.Unix(), "exp": now.Add(life - leeway).Unix(),
		})
	sum := sha256.Sum256([]byte(text))
	a, b, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	signature := base64.RawURLEncoding.EncodeToString(append(a.FillBytes(make([]byte, 32)), b.FillBytes(make([]byte, 32))...))
	json.NewEncoder(w).Encode(map[string]any{"token": text + "." + signature, "expires_in": 300})
}

func user(r *http.Request) string {
	name, _, _ := r.BasicAuth()
	return name
}

// longer makes the next tokens live longer, unless they live for a minute.
func (s *signer) longer() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life *= 2
	return s.life < time.Minute
}

// take gives the scopes of the tokens that were given, and forgets them.
func (s *signer) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.scopes
	s.scopes = nil
	return all
}

// A registry that others wrote takes the tokens of a server at another address, each for what is done alone. They end in
// the middle of a push and of a pull, which go on with others.
func TestRealRegistryTokens(t *testing.T) {
	dir := t.TempDir()
	s := &signer{life: 2 * time.Second}
	s.cert, s.key = certificate(t, dir+"/tokens.pem", dir+"/tokens.key", nil, nil)
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	realm := "https://" + l.Addr().String() + "/token"
	host, _ := runRegistry(t, dir, "", fmt.Sprintf("auth: {token: {realm: %q, service: the registry, issuer: the issuer, rootcertbundle: %q}}", realm, dir+"/tokens.pem"))
	pair, err := tls.LoadX509KeyPair(dir+"/server.pem", dir+"/server.key")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	go server.ServeTLS(l, "", "")
	t.Cleanup(func() { server.Close() })
	opt := hostsFor(t, host, fmt.Sprintf("ca = %q\n", dir+"/ca.pem"))
	if _, err := open(t, host+"/team/app:v1", opt).Resolve(context.Background()); !errdefs.IsUnauthorized(err) {
		t.Errorf("without a password: %v", err)
	}
	opt.Username, opt.Password = "user", "pass"
	s.take()

	// again does something until a second token is used for it. On a slow machine a token may end before it is used, so
	// the next ones live longer.
	again := func(scope string, do func() error) {
		t.Helper()
		var all []string
		for len(all) < 2 && t.Context().Err() == nil {
			err := do()
			if errdefs.IsUnauthorized(err) && s.longer() {
				continue
			}
			if err != nil {
				t.Fatalf("%v after the tokens %q", err, all)
			}
			all = append(all, s.take()...)
		}
		if slices.ContainsFunc(all, func(got string) bool { return got != scope }) {
			t.Errorf("scopes %q, want %q", all, scope)
		}
	}
	d := openPush(t, host+"/team/app:v1", opt)
	again("repository:team/app:pull,push", func() error { return send(d, noise(600<<10)) })
	data := noise(2 << 20)
	var want ocispec.Descriptor
	again("repository:team/app:pull,push", func() (err error) {
		want, err = putImage(d, data, "v1")
		return err
	})
	r := open(t, host+"/team/app:v1", opt)
	again("repository:team/app:pull", func() error {
		if got, err := r.Resolve(context.Background()); err != nil || got.Digest != want.Digest {
			return fmt.Errorf("%v, %w", got, err)
		}
		got, err := readBlob(r, describe(data), 0, -1)
		if err == nil && !bytes.Equal(got, data) {
			err = fmt.Errorf("%d bytes, of %d", len(got), len(data))
		}
		return err
	})
	for s.longer() {
	}
	other := openPush(t, host+"/team/other:v1", opt)
	if ok, err := other.Upload(describe(data)).Mount(context.Background(), "team/app"); err != nil || !ok {
		t.Errorf("mount: %v, %v", ok, err)
	}
	if all := s.take(); !slices.Contains(all, "repository:team/other:pull,push repository:team/app:pull") {
		t.Errorf("scopes of a mount %q", all)
	}
}
