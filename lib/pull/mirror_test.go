// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/registry"
	"ctrd.dev/ctrd/lib/state"
)

// through gives options that ask mirror before the registry at up.
func through(t *testing.T, up, mirror *server) Options {
	t.Helper()
	root := t.TempDir()
	os.Mkdir(filepath.Join(root, up.host), 0o755)
	text := fmt.Sprintf("server = %q\n[host.%q]\n", "http://"+up.host, "http://"+mirror.host)
	if err := os.WriteFile(filepath.Join(root, up.host, "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	opt := options()
	opt.Open = from(registry.Options{HostDirs: []string{root}})
	return opt
}

// A mirror that sends other bytes of the right length costs one transfer, for documents and layers.
func TestMirrorLies(t *testing.T) {
	for _, large := range []bool{false, true} {
		d := openDir(t, t.TempDir())
		up, mirror := newServer(t), newServer(t)
		data := files("f", "x")
		if large {
			data = largeTar()
		}
		b := up.build("test/app", "1", data)
		mirror.build("test/app", "1", data)
		mirror.set(func(w http.ResponseWriter, r *http.Request) bool {
			for _, l := range b.layers {
				if strings.HasSuffix(r.URL.Path, l.Digest.String()) {
					w.Header().Set("Content-Length", fmt.Sprint(l.Size))
					w.Write(make([]byte, l.Size))
					return true
				}
			}
			return false
		})
		img, err := pullText(ctx, d, b.ref, through(t, up, mirror))
		if err != nil || img.Target.Digest != b.manifest.Digest {
			t.Fatal(err)
		}
		if n, _ := up.count(b.layers[0].Digest); n == 0 {
			t.Error("the layer did not come from the registry")
		}
		checkTree(t, d, trees(t, d, img)[0])
	}
}

// Bytes that a killed pull has left are thrown away when they are wrong. They do not cover up for the mirror that then sends wrong
// ones, too.
func TestMirrorLiesAgain(t *testing.T) {
	d := openDir(t, t.TempDir())
	up, mirror := newServer(t), newServer(t)
	b := up.build("test/app", "1", largeTar())
	mirror.build("test/app", "1", largeTar())
	lies := []ocispec.Descriptor{b.layers[0], b.config}
	for _, desc := range lies {
		i, err := content.Begin(ctx, d, nil, desc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.WriteAt(make([]byte, desc.Size/2), 0); err != nil {
			t.Fatal(err)
		}
		i.Close()
	}
	mirror.set(func(w http.ResponseWriter, r *http.Request) bool {
		for _, desc := range lies {
			if strings.HasSuffix(r.URL.Path, desc.Digest.String()) {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(make([]byte, desc.Size)))
				return true
			}
		}
		return false
	})
	img, err := pullText(ctx, d, b.ref, through(t, up, mirror))
	if err != nil || img.Target.Digest != b.manifest.Digest {
		t.Fatal(err)
	}
	checkTree(t, d, trees(t, d, img)[0])
}

// A mirror that is down, or turns all down, costs a few questions, and the image is that of the registry.
func TestMirrorIsOfNoUse(t *testing.T) {
	status := func(code int, header ...string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			for n := 0; n < len(header); n += 2 {
				w.Header().Set(header[n], header[n+1])
			}
			w.WriteHeader(code)
			return true
		}
	}
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"down":     nil,
		"limit":    status(429, "Retry-After", "3600"),
		"gone":     status(503),
		"denied":   status(403),
		"no login": status(401, "WWW-Authenticate", `Bearer realm="http://127.0.0.1:1/token"`),
		"empty":    status(404),
	} {
		d := openDir(t, t.TempDir())
		up, mirror := newServer(t), newServer(t)
		b := up.build("test/app", "1", files("f", "x"), largeTar())
		mirror.set(answer)
		if answer == nil {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			mirror.host = l.Addr().String()
			l.Close()
		}
		img, err := pullText(ctx, d, b.ref, through(t, up, mirror))
		if err != nil || img.Target.Digest != b.manifest.Digest {
			t.Errorf("%s: %+v, %v", name, img.Target, err)
			continue
		}
		checkTree(t, d, trees(t, d, img)[1])
		mirror.mu.Lock()
		if most := 8; mirror.all > most {
			t.Errorf("%s: the mirror was asked %d times", name, mirror.all)
		}
		mirror.mu.Unlock()
	}
}

func largeTar() []byte { return large("f", 3<<20, 7) }

func checkTree(t *testing.T, d *state.Dir, tree string) {
	t.Helper()
	if st, err := os.Stat(tree + "/f"); err != nil || st.Size() == 0 {
		t.Errorf("%v", err)
	}
}

// The configuration, too, comes from the registry when the mirror's is another one.
func TestMirrorLiesAboutConfig(t *testing.T) {
	d := openDir(t, t.TempDir())
	up, mirror := newServer(t), newServer(t)
	b := up.build("test/app", "1", files("f", "x"))
	mirror.build("test/app", "1", files("f", "x"))
	lies := 0
	mirror.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") || strings.HasSuffix(r.URL.Path, b.layers[0].Digest.String()) {
			return false
		}
		lies++
		truth := httptest.NewRecorder()
		mirror.inner.ServeHTTP(truth, r)
		w.Write(make([]byte, truth.Body.Len()))
		return true
	})
	if _, err := pullText(ctx, d, b.ref, through(t, up, mirror)); err != nil || lies == 0 {
		t.Fatalf("%v after %d lies", err, lies)
	}
}

// An index that speaks of another platform than the configuration decides, and the user is told.
func TestPlatformsDisagree(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := s.build("test/app", "1", files("f", "x"))
	entry := b.manifest
	entry.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	s.manifest("test/app", "2", ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{entry}})
	opt := options()
	opt.Platforms, opt.NoUnpack = []string{"linux/s390x"}, true
	var said []string
	opt.Warn = func(text string) { said = append(said, text) }
	if _, err := pullText(ctx, d, s.host+"/test/app:2", opt); err != nil || len(said) != 1 || !strings.Contains(said[0], "linux/s390x") {
		t.Errorf("%v, warnings %q", err, said)
	}
}
