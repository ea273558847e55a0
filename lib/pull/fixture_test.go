// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/image"
	registries "ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/state"
)

var ctx = context.Background()

// server is a registry that counts what it is asked for. wrap, if set, sees each request first and
// tells whether it answered.
type server struct {
	t     *testing.T
	host  string
	inner http.Handler
	mu    sync.Mutex
	wrap  func(w http.ResponseWriter, r *http.Request) bool
	gets  map[string]int   // of each blob or manifest
	bytes map[string]int64 // sent of each
	all   int
}

func newServer(t *testing.T) *server {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	s := &server{t: t, inner: registry.New(registry.Logger(log.New(io.Discard, "", 0))), gets: map[string]int{}, bytes: map[string]int64{}}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.host = strings.TrimPrefix(h.URL, "http://")
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	s.mu.Lock()
	s.all++
	if r.Method == "GET" {
		s.gets[id]++
	}
	wrap := s.wrap
	s.mu.Unlock()
	c := &counted{ResponseWriter: w, s: s, id: id}
	if wrap == nil || !wrap(c, r) {
		s.inner.ServeHTTP(c, r)
	}
}

// set changes how requests are answered, and forgets what was counted.
func (s *server) set(wrap func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrap, s.all = wrap, 0
	clear(s.gets)
	clear(s.bytes)
}

func (s *server) count(d digest.Digest) (gets int, sent int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets[d.String()], s.bytes[d.String()]
}

type counted struct {
	http.ResponseWriter
	s  *server
	id string
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.s.mu.Lock()
	c.s.bytes[c.id] += int64(n)
	c.s.mu.Unlock()
	return n, err
}

func (c *counted) Flush() { c.ResponseWriter.(http.Flusher).Flush() }

// put stores something in the registry, past the counting.
func (s *server) put(method, path, typ string, body []byte) {
	s.t.Helper()
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", typ)
	w := httptest.NewRecorder()
	s.inner.ServeHTTP(w, r)
	if w.Code >= 300 {
		s.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
}

func (s *server) blob(repo, typ string, data []byte) ocispec.Descriptor {
	s.t.Helper()
	d := ocispec.Descriptor{MediaType: typ, Digest: digest.FromBytes(data), Size: int64(len(data))}
	s.put("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.Digest.String(), "application/octet-stream", data)
	return d
}

func (s *server) manifest(repo, tag, typ string, v any) ocispec.Descriptor {
	s.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	s.put("PUT", "/v2/"+repo+"/manifests/"+tag, typ, data)
	return ocispec.Descriptor{MediaType: typ, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// built is an image as it was pushed.
type built struct {
	ref      string
	manifest ocispec.Descriptor
	config   ocispec.Descriptor
	layers   []ocispec.Descriptor
	diffIDs  []digest.Digest
}

// build pushes an image of these tars, compressed, under repo:tag.
func (s *server) build(repo, tag string, tars ...[]byte) built {
	s.t.Helper()
	b := built{ref: s.host + "/" + repo + ":" + tag}
	for _, t := range tars {
		b.layers = append(b.layers, s.blob(repo, ocispec.MediaTypeImageLayerGzip, zipped(t)))
		b.diffIDs = append(b.diffIDs, digest.FromBytes(t))
	}
	return s.push(b, repo, tag)
}

// push pushes configuration and manifest of an image whose layers are there.
func (s *server) push(b built, repo, tag string) built {
	s.t.Helper()
	p, _ := image.ParsePlatform("")
	config, err := json.Marshal(ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: b.diffIDs}})
	if err != nil {
		s.t.Fatal(err)
	}
	b.config = s.blob(repo, ocispec.MediaTypeImageConfig, config)
	b.manifest = s.manifest(repo, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: b.config, Layers: b.layers,
	})
	return b
}

func zipped(data []byte) []byte {
	var buf bytes.Buffer
	z, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	z.Write(data)
	z.Close()
	return buf.Bytes()
}

// files makes a tar of regular files.
func files(content ...string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(content); i += 2 {
		w.WriteHeader(&tar.Header{Name: content[i], Mode: 0o644, Size: int64(len(content[i+1])), Typeflag: tar.TypeReg})
		io.WriteString(w, content[i+1])
	}
	w.Close()
	return buf.Bytes()
}

// large makes a tar with one file of n bytes that do not compress.
func large(name string, n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, seed))
	for i := 0; i+8 <= n; i += 8 {
		v := r.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return files(name, string(b))
}

func openDir(t *testing.T, base string) *state.Dir {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("unpacking needs root")
	}
	d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "state"), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func options() Options { return Options{Namespace: "ns", Open: from(registries.Options{})} }

// from is lib/pull/remote's Open, which imports this package.
func from(opt registries.Options) func(image.Reference) (Source, error) {
	return func(name image.Reference) (Source, error) {
		return registries.Open(name, opt)
	}
}

// pullText is Image of a reference that is typed.
func pullText(ctx context.Context, d *state.Dir, ref string, opt Options) (image.Image, error) {
	name, err := image.Parse(ref)
	if err != nil {
		return image.Image{}, err
	}
	return Image(ctx, d, name, opt)
}

// clean checks that a failed pull left nothing that anybody sees.
func invisible(t *testing.T, d *state.Dir, what string) {
	t.Helper()
	err := d.View(ctx, func(tx *state.Tx) error {
		for _, name := range []string{"images", "content", "snapshots/overlayfs"} {
			names, err := state.Table[any]{Name: name}.Namespaces(tx)
			if err != nil {
				return err
			}
			if len(names) > 0 {
				t.Errorf("%s: records in %s", what, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	dirs, err := filepath.Glob(d.Path("snapshots", "overlayfs", "*.new"))
	if err != nil || len(dirs) > 0 {
		t.Errorf("%s: left over %v, %v", what, dirs, err)
	}
	if left, _ := os.ReadDir(d.Path("trash")); len(left) > 0 {
		t.Errorf("%s: trash is not empty: %v", what, left)
	}
	if leases, _ := os.ReadDir(d.Run("leases")); len(leases) > 0 {
		t.Errorf("%s: a lease is left", what)
	}
}

func eventNames(d *state.Dir) string {
	var all []string
	for e, err := range d.Journal().Read(ctx, 0, false) {
		if err != nil {
			return err.Error()
		}
		all = append(all, e.Topic)
	}
	return fmt.Sprint(all)
}
