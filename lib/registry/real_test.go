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
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	authority(t, dir)
	os.WriteFile(filepath.Join(dir, "htpasswd"), []byte(passUser), 0o600)
	conf := fmt.Sprintf(`
version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: "127.0.0.1:0", tls: {certificate: %q, key: %q}}
auth: {htpasswd: {realm: test, path: %q}}
`, dir+"/data", dir+"/server.pem", dir+"/server.key", dir+"/htpasswd")
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
