// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/snapshot"
)

// answer serves a blob's request with other bytes.
func answer(d digest.Digest, data []byte) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+d.String()) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
			return true
		}
		return false
	}
}

func flipped(data []byte) []byte {
	b := bytes.Clone(data)
	b[len(b)/2] ^= 0x40
	return b
}

// Whatever is wrong with a layer: the error says so, nothing is visible, and once it is put right the
// same pull succeeds.
func TestWrongLayers(t *testing.T) {
	good := files("a", strings.Repeat("text ", 1000), "b", "2")
	escape := tarOf(tar.Header{Name: "../../../../tmp/ctrd-escaped", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644})
	for name, c := range map[string]struct {
		make func(s *server) built
		wrap func(b built) func(http.ResponseWriter, *http.Request) bool
		is   func(error) bool
		text string
	}{
		"flipped byte": {wrap: func(b built) func(http.ResponseWriter, *http.Request) bool {
			return answer(b.layers[0].Digest, flipped(zipped(good)))
		}, is: errdefs.IsFailedPrecondition, text: "what arrived has digest"},
		"other blob of the same size": {wrap: func(b built) func(http.ResponseWriter, *http.Request) bool {
			return answer(b.layers[0].Digest, make([]byte, b.layers[0].Size))
		}, is: errdefs.IsFailedPrecondition, text: "what arrived has digest"},
		"short blob": {wrap: func(b built) func(http.ResponseWriter, *http.Request) bool {
			return answer(b.layers[0].Digest, zipped(good)[:100])
		}, is: errdefs.IsFailedPrecondition, text: "it has 100 bytes"},
		"missing blob": {wrap: func(b built) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/blobs/"+b.layers[0].Digest.String()) {
					w.WriteHeader(404)
					return true
				}
				return false
			}
		}, is: errdefs.IsNotFound, text: "404"},
		"other diff id": {make: func(s *server) built {
			b := built{ref: s.host + "/test/bad:1", layers: []ocispec.Descriptor{s.blob("test/bad", ocispec.MediaTypeImageLayerGzip, zipped(good))}}
			b.diffIDs = []digest.Digest{digest.FromString("something else")}
			return s.push(b, "test/bad", "1")
		}, is: errdefs.IsFailedPrecondition, text: "diff id"},
		"escape":          {make: func(s *server) built { return s.build("test/bad", "1", escape) }, is: errdefs.IsInvalidArgument, text: "ctrd-escaped"},
		"no tar":          {make: func(s *server) built { return s.build("test/bad", "1", bytes.Repeat([]byte("x"), 2000)) }, is: func(err error) bool { return err != nil }, text: "layer"},
		"alien type":      {make: func(s *server) built { return alien(s, good) }, is: errdefs.IsNotImplemented, text: "application/x-alien"},
		"damaged gzip":    {make: func(s *server) built { return damaged(s, good) }, is: func(err error) bool { return err != nil }, text: "layer"},
		"truncated gzip":  {make: func(s *server) built { return truncated(s, good) }, is: func(err error) bool { return err != nil }, text: "ends early"},
		"size in between": {make: func(s *server) built { return oversized(s, good) }, is: errdefs.IsFailedPrecondition, text: "descriptor says"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			d := openDir(t, t.TempDir())
			s := newServer(t)
			b := s.build("test/app", "1", good)
			if c.make != nil {
				b = c.make(s)
			}
			if c.wrap != nil {
				s.set(c.wrap(b))
			}
			_, err := pullText(ctx, d, b.ref, options())
			if !c.is(err) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), b.ref) {
				t.Errorf("%v", err)
			}
			var bad *ContentError
			if blamed := name != "missing blob" && name != "alien type"; errors.As(err, &bad) != blamed {
				t.Errorf("the content is blamed: %v; %v", !blamed, err)
			}
			invisible(t, d, name)
			if _, err := os.Lstat("/tmp/ctrd-escaped"); err == nil {
				t.Error("a file outside was written")
			}
			if c.make != nil {
				return
			}
			s.set(nil)
			if _, err := pullText(ctx, d, b.ref, options()); err != nil {
				t.Errorf("put right, it still fails: %v", err)
			}
		})
	}
}

func tarOf(h tar.Header) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	w.WriteHeader(&h)
	w.Write(make([]byte, h.Size))
	w.Close()
	return buf.Bytes()
}

func alien(s *server, data []byte) built {
	b := built{ref: s.host + "/test/bad:1", diffIDs: []digest.Digest{digest.FromBytes(data)}}
	b.layers = []ocispec.Descriptor{s.blob("test/bad", "application/x-alien", data)}
	return s.push(b, "test/bad", "1")
}

func truncated(s *server, data []byte) built {
	z := zipped(data)
	b := built{ref: s.host + "/test/bad:1", diffIDs: []digest.Digest{digest.FromBytes(data)}}
	b.layers = []ocispec.Descriptor{s.blob("test/bad", ocispec.MediaTypeImageLayerGzip, z[:len(z)-20])}
	return s.push(b, "test/bad", "1")
}

func damaged(s *server, data []byte) built {
	b := built{ref: s.host + "/test/bad:1", diffIDs: []digest.Digest{digest.FromBytes(data)}}
	b.layers = []ocispec.Descriptor{s.blob("test/bad", ocispec.MediaTypeImageLayerGzip, flipped(zipped(data)))}
	return s.push(b, "test/bad", "1")
}

func oversized(s *server, data []byte) built {
	b := built{ref: s.host + "/test/bad:1", diffIDs: []digest.Digest{digest.FromBytes(data)}}
	l := s.blob("test/bad", ocispec.MediaTypeImageLayerGzip, zipped(data))
	l.Size += 10
	b.layers = []ocispec.Descriptor{l}
	return s.push(b, "test/bad", "1")
}

// One bad layer among good ones: the good ones are kept, unseen, and not asked for again.
func TestGoodLayersStay(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	bad := files("c", "3")
	b := s.build("test/app", "1", files("a", "1"), files("b", "2"), bad)
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, b.layers[2].Digest.String()) {
			time.Sleep(300 * time.Millisecond) // the others shall be through
			w.Write(flipped(zipped(bad)))
			return true
		}
		return false
	})
	if _, err := pullText(ctx, d, b.ref, options()); !errdefs.IsFailedPrecondition(err) {
		t.Fatal(err)
	}
	invisible(t, d, "bad layer")
	s.set(nil)
	if _, err := pullText(ctx, d, b.ref, options()); err != nil {
		t.Fatal(err)
	}
	for n, want := range []int{0, 0, 1} {
		if gets, _ := s.count(b.layers[n].Digest); gets != want {
			t.Errorf("layer %d was fetched %d times", n, gets)
		}
	}
}

// What a power cut can leave: a partial download with wrong bytes, a layer directory of an earlier boot,
// a blob file that nobody hashed.
func TestAfterPowerCut(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	tarball := files("a", strings.Repeat("text ", 1000))
	b := s.build("test/app", "1", tarball)
	chain := image.ChainIDs(b.diffIDs)[0]
	i, err := content.Begin(ctx, d, nil, b.layers[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.WriteAt(make([]byte, b.layers[0].Size-5), 0); err != nil {
		t.Fatal(err)
	}
	i.Close()
	for _, id := range []snapshot.ID{snapshot.LayerID(chain), staged(snapshot.LayerID(chain))} {
		if err := snapshot.Overlay.Stage(context.Background(), d, id, ""); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(snapshot.Overlay.FS(d, id)+"/half", nil, 0o644)
	}
	if _, err := pullText(ctx, d, b.ref, options()); err != nil {
		t.Fatal(err)
	}
	fs := snapshot.Overlay.FS(d, snapshot.LayerID(chain))
	if _, err := os.Stat(fs + "/half"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a directory of another boot was taken over")
	}
	if got, err := os.ReadFile(fs + "/a"); err != nil || len(got) != 5000 {
		t.Error(len(got), err)
	}

	b = s.build("test/app", "2", files("a", "other"))
	os.WriteFile(content.Path(d, b.layers[0].Digest), make([]byte, b.layers[0].Size), 0o444)
	if _, err := pullText(ctx, d, b.ref, options()); err != nil {
		t.Errorf("a damaged blob file without a record: %v", err)
	}
}

func TestCancel(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	tarball := large("big", 4<<20, 3)
	b := s.build("test/app", "1", tarball)
	c, cancel := context.WithCancelCause(ctx)
	mine := errors.New("mine")
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, b.layers[0].Digest.String()) {
			w.Header().Set("Content-Length", fmt.Sprint(b.layers[0].Size))
			w.Write(zipped(tarball)[:2<<20])
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
			cancel(mine)
			<-r.Context().Done()
			return true
		}
		return false
	})
	if _, err := pullText(c, d, b.ref, options()); !errors.Is(err, mine) {
		t.Fatal(err)
	}
	invisible(t, d, "cancelled")
	s.set(nil)
	if _, err := pullText(ctx, d, b.ref, options()); err != nil {
		t.Fatal(err)
	}
	if _, sent := s.count(b.layers[0].Digest); sent > b.layers[0].Size-1<<20 {
		t.Errorf("%d of %d bytes were sent again", sent, b.layers[0].Size)
	}
}

// One layer is wrong while another is on its way: what has arrived of the other is not thrown away.
func TestBadLayerSparesOthers(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	bad, tarball := files("c", "3"), large("big", 4<<20, 5)
	b := s.build("test/app", "1", tarball, bad)
	sent := make(chan struct{}, 1)
	slow := stall(b.layers[0].Digest.String(), zipped(tarball), 2<<20, sent)
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, b.layers[1].Digest.String()) {
			<-sent
			waitRanges(t, d, b.layers[0].Digest.Encoded(), 2<<20)
			w.Write(flipped(zipped(bad)))
			return true
		}
		return slow(w, r)
	})
	if _, err := pullText(ctx, d, b.ref, options()); !errdefs.IsFailedPrecondition(err) {
		t.Fatal(err)
	}
	s.set(nil)
	if _, err := pullText(ctx, d, b.ref, options()); err != nil {
		t.Fatal(err)
	}
	if _, got := s.count(b.layers[0].Digest); got != b.layers[0].Size-2<<20 {
		t.Errorf("%d bytes were sent again", got)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	for ref, is := range map[string]func(error) bool{
		"UPPER/case/": errdefs.IsInvalidArgument, s.host + "/test/absent:1": errdefs.IsNotFound, "127.0.0.1:1/a": errdefs.IsUnavailable,
	} {
		if _, err := pullText(ctx, d, ref, options()); !is(err) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	opt := options()
	opt.Platforms = []string{"x/y/z/w"}
	if _, err := pullText(ctx, d, s.host+"/a", opt); !errdefs.IsInvalidArgument(err) {
		t.Errorf("platform: %v", err)
	}
	invisible(t, d, "errors")
}
