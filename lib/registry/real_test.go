// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// passUser is the user "user" with the password "pass", as htpasswd -B writes it.
const passUser = "user:$2b$04$IVvroKYGqmqjQB46fIIOFe27SaB616jPKKuu.g37OJNJn1a4WJc5G\n"

// realRegistry runs docker-registry on loopback with TLS of a private authority and a password. It gives the
// address and the client that trusts it.
func realRegistry(t *testing.T, dir string) (string, *http.Client) {
	t.Helper()
	os.WriteFile(filepath.Join(dir, "htpasswd"), []byte(passUser), 0o600)
	return runRegistry(t, dir, "", fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}", dir+"/htpasswd"))
}

// runRegistry is realRegistry with more about TLS, and with other lines of its configuration.
func runRegistry(t *testing.T, dir, tlsMore, more string) (string, *http.Client) {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	authority(t, dir)
	conf := fmt.Sprintf(`
version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: "127.0.0.1:0", tls: {certificate: %q, key: %q%s}}
%s
`, dir+"/data", dir+"/server.pem", dir+"/server.key", tlsMore, more)
	os.WriteFile(filepath.Join(dir, "config.yml"), []byte(conf), 0o600)
	cmd := exec.Command(program, "serve", filepath.Join(dir, "config.yml"))
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	ready := make(chan string, 1)
	go func() {
		defer close(ready)
		for s := bufio.NewScanner(log); s.Scan(); {
			if _, rest, ok := strings.Cut(s.Text(), "listening on "); ok {
				ready <- rest[:strings.IndexAny(rest+",", ", \"")]
			}
		}
	}()
	addr := <-ready
	if addr == "" {
		t.Fatal("docker-registry does not start")
	}
	pem, _ := os.ReadFile(filepath.Join(dir, "ca.pem"))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return addr, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

// A registry that others wrote, with TLS of a private authority and a password, by way of hosts.toml.
func TestRealRegistry(t *testing.T) {
	dir := t.TempDir()
	host, client := realRegistry(t, dir)
	data := noise(300000)
	want, blob := upload(t, client, "https://"+host, data)
	opt := hostsFor(t, host, fmt.Sprintf("ca = %q\n", dir+"/ca.pem"))
	_, err := open(t, host+"/test/repo:v1", opt).Resolve(context.Background())
	if !errdefs.IsUnauthorized(err) {
		t.Errorf("without a password: %v", err)
	}
	_, err = open(t, host+"/test/repo:v1", Options{Username: "user", Password: "pass"}).Resolve(context.Background())
	if !errdefs.IsUnavailable(err) || !strings.Contains(hint(err), "--ca-file") {
		t.Errorf("without the authority: %v", err)
	}
	opt.Username, opt.Password = "user", "pass"
	r := open(t, host+"/test/repo:v1", opt)
	if got, err := r.Resolve(context.Background()); err != nil || got.Digest != want.Digest || got.Size != want.Size {
		t.Fatalf("%v, %v", got, err)
	}
	if m, err := r.Manifest(context.Background(), want); err != nil || digest.FromBytes(m) != want.Digest {
		t.Error(err)
	}
	for _, at := range []int64{0, 100000} {
		if got, err := readBlob(r, blob, at, -1); err != nil || !bytes.Equal(got, data[at:]) {
			t.Errorf("from %d: %d bytes, %v", at, len(got), err)
		}
	}
	if _, err := open(t, host+"/test/repo:none", opt).Resolve(context.Background()); !errdefs.IsNotFound(err) {
		t.Errorf("no such tag: %v", err)
	}
}

// The same registry is written to: whole blobs, by mounts, and with broken connections.
func TestRealRegistryPush(t *testing.T) {
	dir := t.TempDir()
	host, _ := realRegistry(t, dir)
	opt := hostsFor(t, host, fmt.Sprintf("ca = %q\n", dir+"/ca.pem"))
	if err := send(openPush(t, host+"/a/app:1", opt), noise(10)); !errdefs.IsUnauthorized(err) {
		t.Errorf("without a password: %v", err)
	}
	opt.Username, opt.Password = "user", "pass"
	d := openPush(t, host+"/a/app:1", opt)
	ctx := context.Background()
	var blobs []ocispec.Descriptor
	for _, n := range []int{0, 1, 5000, 5 << 20} {
		data := noise(n)
		if err := send(d, data); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if has, err := d.HasBlob(ctx, describe(data)); err != nil || !has {
			t.Errorf("%d bytes: %v, %v", n, has, err)
		}
		blobs = append(blobs, describe(data))
	}
	m, _ := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: blobs[2], Layers: blobs,
	})
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m))}
	other := openPush(t, host+"/b/app:1", opt)
	if _, err := other.PutManifest(ctx, desc, m, "1"); err == nil || !strings.Contains(err.Error(), "BLOB_UNKNOWN") {
		t.Errorf("a manifest before its blobs: %v", err)
	}
	for _, b := range blobs {
		if ok, err := other.Upload(b).Mount(ctx, "a/app"); err != nil || !ok {
			t.Errorf("mount %d bytes: %v, %v", b.Size, ok, err)
		}
	}
	for _, at := range []*Destination{d, other} {
		if has, err := at.HasManifest(ctx, desc, "1"); err != nil || has {
			t.Errorf("has it: %v, %v", has, err)
		}
		if _, err := at.PutManifest(ctx, desc, m, "1"); err != nil {
			t.Error(err)
		}
		for _, tag := range []string{"1", ""} {
			if has, err := at.HasManifest(ctx, desc, tag); err != nil || !has {
				t.Errorf("tag %q: has it: %v, %v", tag, has, err)
			}
		}
	}

	var sent atomic.Int64
	data := noise(8 << 20)
	cut := openPush(t, cutting(t, host, []int64{3 << 20, 2 << 20, 1 << 20}, false, &sent)+"/a/app:1", Options{Insecure: true, Username: "user", Password: "pass"})
	if err := send(cut, data); err != nil {
		t.Fatal(err)
	}
	if has, err := d.HasBlob(ctx, describe(data)); err != nil || !has || sent.Load() > 16<<20 {
		t.Errorf("broken connections: %v, %v, %d bytes", has, err, sent.Load())
	}
}

// upload pushes an image of one blob to a registry with the password user:pass.
func upload(t *testing.T, client *http.Client, base string, data []byte) (manifest, blob ocispec.Descriptor) {
	t.Helper()
	send := func(method, address, typ string, body []byte) *http.Response {
		req, err := http.NewRequest(method, address, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("user", "pass")
		req.Header.Set("Content-Type", typ)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s", method, address, resp.Status)
		}
		return resp
	}
	blob = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}
	at, err := send("POST", base+"/v2/test/repo/blobs/uploads/", "", nil).Location()
	if err != nil {
		t.Fatal(err)
	}
	q := at.Query()
	q.Set("digest", blob.Digest.String())
	at.RawQuery = q.Encode()
	send("PUT", at.String(), "application/octet-stream", data)
	m, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: blob, Layers: []ocispec.Descriptor{blob},
	})
	if err != nil {
		t.Fatal(err)
	}
	send("PUT", base+"/v2/test/repo/manifests/v1", ocispec.MediaTypeImageManifest, m)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m))}, blob
}
