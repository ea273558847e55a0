// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/reference"
)

// front stands before a registry: wrap sees each request first and says whether it answered it.
type front struct {
	mu    sync.Mutex
	next  http.Handler
	wrap  func(w http.ResponseWriter, r *http.Request) bool
	seen  []string
	auths []string
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen = append(f.seen, r.Method+" "+r.URL.Path)
	f.auths = append(f.auths, r.Header.Get("Authorization"))
	wrap := f.wrap
	f.mu.Unlock()
	if wrap == nil || !wrap(w, r) {
		f.next.ServeHTTP(w, r)
	}
}

func (f *front) count(prefix string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.seen {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

func newFront() *front {
	return &front{next: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// push puts one blob and one manifest that names it into the registry at next.
func push(t *testing.T, next http.Handler, tag string, data []byte) (manifest, blob ocispec.Descriptor) {
	t.Helper()
	put := func(method, path, typ string, body []byte) {
		req := httptest.NewRequest(method, path, bytes.NewReader(body))
		req.Header.Set("Content-Type", typ)
		w := httptest.NewRecorder()
		next.ServeHTTP(w, req)
		if w.Code >= 300 {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	blob = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}
	put("POST", "/v2/test/repo/blobs/uploads/?digest="+blob.Digest.String(), "application/octet-stream", data)
	m, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: blob, Layers: []ocispec.Descriptor{blob}})
	if err != nil {
		t.Fatal(err)
	}
	put("PUT", "/v2/test/repo/manifests/"+tag, ocispec.MediaTypeImageManifest, m)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m))}, blob
}

// open is Open with no pauses between attempts and no credentials of this machine.
func open(t *testing.T, ref string, opt Options) *Repository {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", "")
	r, err := Open(parseRef(ref), opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range r.hosts {
		e.retry.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	}
	t.Cleanup(r.Close)
	return r
}

// parseRef reads HOST/REPOSITORY[:TAG][@DIGEST].
func parseRef(s string) (r reference.Reference) {
	s, d, _ := strings.Cut(s, "@")
	r.Digest = digest.Digest(d)
	r.Domain, r.Path, _ = strings.Cut(s, "/")
	r.Path, r.Tag, _ = strings.Cut(r.Path, ":")
	if r.Tag == "" && d == "" {
		r.Tag = "latest"
	}
	return r
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func readBlob(r *Repository, desc ocispec.Descriptor, off, n int64) ([]byte, error) {
	rc, err := r.Blob(context.Background(), desc, off, n)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

func TestResolveAndRead(t *testing.T) {
	f := newFront()
	data := noise(100000)
	want, blob := push(t, f.next, "v1", data)
	host := serve(t, f)
	ctx := context.Background()
	for _, ref := range []string{"test/repo:v1", "test/repo@" + want.Digest.String(), "test/repo:v1@" + want.Digest.String()} {
		r := open(t, host+"/"+ref, Options{})
		got, err := r.Resolve(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest != want.Digest || got.Size != want.Size || got.MediaType != want.MediaType {
			t.Errorf("%s: got %v, want %v", ref, got, want)
		}
		if f.count("GET /v2/test") != 0 {
			t.Errorf("%s: the manifest was read to resolve it", ref)
		}
	}
	r := open(t, host+"/test/repo:v1", Options{})
	m, err := r.Manifest(ctx, want)
	if err != nil || digest.FromBytes(m) != want.Digest {
		t.Fatalf("manifest: %v", err)
	}
	for _, c := range []struct{ off, n int64 }{{0, -1}, {0, 10}, {99990, -1}, {5000, 70000}, {100000, -1}, {7, 0}, {1, 1 << 40}} {
		got, err := readBlob(r, blob, c.off, c.n)
		end := int64(len(data))
		if c.n >= 0 && c.off+c.n < end {
			end = c.off + c.n
		}
		if err != nil || !bytes.Equal(got, data[c.off:end]) {
			t.Errorf("%v: %d bytes, %v", c, len(got), err)
		}
	}
	if _, err := readBlob(r, blob, 100001, -1); !errdefs.IsOutOfRange(err) {
		t.Errorf("offset behind the end: %v", err)
	}
}

func TestResolveFallsBackToGet(t *testing.T) {
	for _, c := range []struct {
		name string
		head func(w http.ResponseWriter, r *http.Request, f *front)
	}{
		{"no HEAD", func(w http.ResponseWriter, r *http.Request, f *front) { w.WriteHeader(405) }},
		{"no digest", func(w http.ResponseWriter, r *http.Request, f *front) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		}},
		{"no media type", func(w http.ResponseWriter, r *http.Request, f *front) {
			rec := httptest.NewRecorder()
			f.next.ServeHTTP(rec, r)
			w.Header().Set("Docker-Content-Digest", rec.Header().Get("Docker-Content-Digest"))
			w.Header().Set("Content-Type", "text/plain")
		}},
	} {
		f := newFront()
		want, _ := push(t, f.next, "v1", noise(10))
		f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == "HEAD" {
				c.head(w, r, f)
				return true
			}
			if strings.Contains(r.URL.Path, "/manifests/") {
				rec := httptest.NewRecorder()
				f.next.ServeHTTP(rec, r)
				w.Header().Set("Content-Type", "application/json")
				w.Write(rec.Body.Bytes())
				return true
			}
			return false
		}
		r := open(t, serve(t, f)+"/test/repo:v1", Options{})
		got, err := r.Resolve(context.Background())
		if err != nil || got.Digest != want.Digest || got.MediaType != want.MediaType || got.Size != want.Size {
			t.Errorf("%s: %v %v", c.name, got, err)
		}
		if _, err := r.Manifest(context.Background(), got); err != nil || f.count("GET /v2/test") != 1 {
			t.Errorf("%s: manifest read %d times: %v", c.name, f.count("GET /v2/test"), err)
		}
	}
}

func TestWrongManifest(t *testing.T) {
	f := newFront()
	want, _ := push(t, f.next, "v1", noise(10))
	other, _ := push(t, f.next, "v2", noise(10))
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		r.URL.Path = strings.ReplaceAll(r.URL.Path, want.Digest.String(), other.Digest.String())
		return false
	}
	host := serve(t, f)
	r := open(t, host+"/test/repo@"+want.Digest.String(), Options{})
	if _, err := r.Resolve(context.Background()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("resolve: %v", err)
	}
	if _, err := r.Manifest(context.Background(), want); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), other.Digest.String()) {
		t.Errorf("manifest: %v", err)
	}
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Write(make([]byte, MaxManifest+1))
			return true
		}
		return false
	}
	if _, err := r.Manifest(context.Background(), want); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "larger") {
		t.Errorf("huge manifest: %v", err)
	}
}

func TestStatusKinds(t *testing.T) {
	for _, c := range []struct {
		status int
		is     func(error) bool
	}{
		{401, errdefs.IsUnauthorized}, {403, errdefs.IsPermissionDenied}, {404, errdefs.IsNotFound},
		{429, errdefs.IsResourceExhausted}, {500, errdefs.IsUnavailable}, {503, errdefs.IsUnavailable},
	} {
		f := newFront()
		f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			w.WriteHeader(c.status)
			fmt.Fprint(w, `{"errors":[{"code":"SOME_CODE","message":"two\nlines"}]}`)
			return true
		}
		host := serve(t, f)
		_, err := open(t, host+"/test/repo:v1", Options{}).Resolve(context.Background())
		if !c.is(err) {
			t.Errorf("%d: %v", c.status, err)
		}
		for _, s := range []string{host, "test/repo", `manifest "v1"`} {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%d: %q does not say %q", c.status, err, s)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%d: outside text breaks the line: %q", c.status, err)
		}
	}
}

func TestNoRegistry(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	host := strings.TrimPrefix(s.URL, "http://")
	if _, err := open(t, host+"/a/b", Options{}).Resolve(context.Background()); !errdefs.IsUnavailable(err) {
		t.Errorf("a server without /v2/: %v", err)
	}
	s.Close()
	for _, opt := range []Options{{}, {PlainHTTP: true}} {
		_, err := open(t, host+"/a/b", opt).Resolve(context.Background())
		if !errdefs.IsUnavailable(err) || strings.Contains(err.Error(), "https:") || !strings.Contains(err.Error(), "plain HTTP") || hint(err) != "" {
			t.Errorf("nobody there: %v, hint %q", err, hint(err))
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := open(t, host+"/a/b", Options{}).Resolve(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestRetry(t *testing.T) {
	f := newFront()
	want, blob := push(t, f.next, "v1", noise(1000))
	var n int
	var waits []time.Duration
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		n++
		switch n % 4 {
		case 1:
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
		case 2:
			w.WriteHeader(503)
		case 3:
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
			}
			c.Close()
		default:
			return false
		}
		return true
	}
	r := open(t, serve(t, f)+"/test/repo:v1", Options{PlainHTTP: true})
	r.hosts[0].retry.pause = func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }
	if got, err := r.Resolve(context.Background()); err != nil || got.Digest != want.Digest {
		t.Fatal(got, err)
	}
	if _, err := readBlob(r, blob, 0, -1); err != nil {
		t.Fatal(err)
	}
	if len(waits) < 4 || waits[0] < 7*time.Second || waits[1] > time.Second {
		t.Errorf("pauses %v", waits)
	}
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "100000")
		w.WriteHeader(429)
		return true
	}
	before := len(waits)
	_, err := r.Resolve(context.Background())
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "27h46m40s") || len(waits) != before {
		t.Errorf("a long Retry-After: %v after %d pauses", err, len(waits)-before)
	}
}

// An answer of which nothing more comes, though its connection stands, is given up.
func TestStalls(t *testing.T) {
	for name, c := range map[string]struct {
		path   string // of the requests whose answer stalls
		status int
		times  int // how many of them do
		bad    bool
	}{
		"manifest": {"/manifests/", 200, 1, false},
		"failure":  {"/manifests/", 503, 1, false},
		"token":    {"/token", 200, 100, true},
		"skipped":  {"/blobs/", 200, 1, true},
	} {
		f := newFront()
		data := noise(50000)
		want, blob := push(t, f.next, "v1", data)
		var host string
		var stalled atomic.Int32
		f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == "GET" && strings.Contains(r.URL.Path, c.path) && int(stalled.Add(1)) <= c.times {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				w.WriteHeader(c.status)
				w.Write([]byte("{"))
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return true
			}
			if c.path == "/token" && r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+host+`/token",service="s"`)
				w.WriteHeader(401)
				return true
			}
			return false
		}
		host = serve(t, f)
		r := open(t, host+"/test/repo:v1", Options{})
		r.hosts[0].calm.time = 100 * time.Millisecond
		_, err := r.Manifest(context.Background(), want)
		if err == nil {
			_, err = readBlob(r, blob, 20000, 5000)
		}
		if c.bad != (err != nil) || err != nil && (!errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no data")) {
			t.Errorf("%s: %v", name, err)
		}
		if stalled.Load() == 0 {
			t.Errorf("%s: nothing stalled", name)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "0": 0, "12": 12 * time.Second, "-5": 0, "x": 0, "1e9": 0, "99999999999999999999": 0,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0,
	} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

func FuzzSniff(f *testing.F) {
	for _, s := range []string{`{"schemaVersion":1}`, `{"manifests":[]}`, `{"config":{}}`, `{"mediaType":"x"}`, `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if typ, err := sniff(data); err == nil && !known(typ) {
			t.Errorf("%q: %q", data, typ)
		}
	})
}

// hint is what an error says the user may do.
func hint(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint()
	}
	return ""
}

func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, s := range []string{"0", "120", "4294967296", "-1", now.Add(time.Hour).Format(http.TimeFormat), "Fri, 02 Jan 1970 03:04:05 GMT", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := retryAfter(s, now)
		if d < 0 {
			t.Errorf("%q is %s", s, d)
		}
		if at := now.Add(d); d > 0 && d%time.Second == 0 && d < 1000*time.Hour {
			if got := retryAfter(at.Format(http.TimeFormat), now); got != d {
				t.Errorf("%q is %s, as a date %s", s, d, got)
			}
		}
	})
}
