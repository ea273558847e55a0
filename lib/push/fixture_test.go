// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

var ctx = context.Background()

// store is a state directory that images are put into without a pull.
type store struct {
	*testing.T
	d *state.Dir
}

func newStore(t *testing.T) *store {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", "")
	base := t.TempDir()
	d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "state"), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	return &store{t, d}
}

// blob keeps bytes as a blob of the namespace, with labels.
func (s *store) blob(typ string, data []byte, labels ...string) ocispec.Descriptor {
	s.Helper()
	desc := ocispec.Descriptor{MediaType: typ, Digest: digest.FromBytes(data), Size: int64(len(data))}
	i, err := content.Begin(ctx, s.d, nil, desc)
	if err != nil {
		s.Fatal(err)
	}
	if !i.Complete() {
		if _, err := i.WriteAt(data, 0); err != nil {
			s.Fatal(err)
		}
	}
	if err := errors.Join(i.Commit(), i.Close()); err != nil {
		s.Fatal(err)
	}
	b := content.Blob{Digest: desc.Digest, Size: desc.Size, Labels: map[string]string{}}
	for n := 0; n < len(labels); n += 2 {
		b.Labels[labels[n]] = labels[n+1]
	}
	if err := s.d.Update(ctx, nil, func(tx *state.Tx) error { return content.Merge(tx, "ns", b) }); err != nil {
		s.Fatal(err)
	}
	return desc
}

func (s *store) json(typ string, v any) ocispec.Descriptor {
	s.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		s.Fatal(err)
	}
	return s.blob(typ, data)
}

// manifest keeps an image for a platform with these layers.
func (s *store) manifest(platform string, layers ...ocispec.Descriptor) ocispec.Descriptor {
	s.Helper()
	p, err := image.ParsePlatform(platform)
	if err != nil {
		s.Fatal(err)
	}
	config := ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Digest)
	}
	m := s.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: s.json(ocispec.MediaTypeImageConfig, config), Layers: layers,
	})
	m.Platform = &p
	return m
}

func (s *store) index(entries ...ocispec.Descriptor) ocispec.Descriptor {
	s.Helper()
	return s.json(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
		Annotations: map[string]string{"org.example": "kept"},
	})
}

func (s *store) name(name string, target ocispec.Descriptor) {
	s.Helper()
	target.Platform = nil
	err := s.d.Update(ctx, nil, func(tx *state.Tx) error {
		return image.Put(tx, "ns", image.Image{Name: name, Target: target})
	})
	if err != nil {
		s.Fatal(err)
	}
}

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, seed))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// server is a registry that writes down what it is asked. wrap, if set, sees each request first and tells
// whether it answered.
type server struct {
	host  string
	inner http.Handler
	mu    sync.Mutex
	wrap  func(w http.ResponseWriter, r *http.Request) bool
	seen  []string
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{inner: registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(false))}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.host = strings.TrimPrefix(h.URL, "http://")
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, r.Method+" "+r.URL.Path)
	wrap := s.wrap
	s.mu.Unlock()
	if wrap == nil || !wrap(w, r) {
		s.inner.ServeHTTP(w, r)
	}
}

// count tells how many requests of a method there were whose path has a part.
func (s *server) count(method, part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.seen {
		m, path, _ := strings.Cut(r, " ")
		if m == method && strings.Contains(path, part) {
			n++
		}
	}
	return n
}

func (s *server) set(wrap func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrap, s.seen = wrap, nil
}

// get asks the registry itself, past what is counted.
func (s *server) get(path string) (status int, body []byte, header http.Header) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/v2/"+path, nil)
	r.Header.Set("Accept", "*/*")
	s.inner.ServeHTTP(w, r)
	return w.Code, w.Body.Bytes(), w.Header()
}

// pushText is Image to a reference that is typed.
func pushText(ctx context.Context, d *state.Dir, query, to string, opt Options) (Result, error) {
	name, err := image.Parse(to)
	if err != nil {
		return Result{}, err
	}
	return Image(ctx, d, query, name, opt)
}

func options() Options { return Options{Namespace: "ns"} }
