// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"archive/tar"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// trees gives the directories of an image's layers, the lowest first.
func trees(t *testing.T, d *state.Dir, img image.Image) []string {
	t.Helper()
	p, _ := image.ParsePlatform("")
	m, err := image.Resolve(d, img.Target, p)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, chain := range m.ChainIDs {
		all = append(all, snapshot.Overlay.FS(d, snapshot.LayerID(chain)))
	}
	return all
}

func mode(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
}

func directories(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{{Name: "tmp/", Mode: 0o1777}, {Name: "srv/", Mode: 0o755}, {Name: "srv/app/", Mode: 0o750, Uid: 1000, Gid: 1000}} {
		h.Typeflag = tar.TypeDir
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return buf.Bytes()
}

// Directories that a layer only implies look as below, whatever the umask of the caller.
func TestImpliedDirectories(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := s.build("test/app", "1", directories(t), files("tmp/x", "", "srv/app/y", "", "new/z", ""), files("srv/app/z", ""))
	img, err := pullText(ctx, d, b.ref, options())
	if err != nil {
		t.Fatal(err)
	}
	all := trees(t, d, img)
	for path, want := range map[string]string{
		all[1] + "/tmp": "1777 0:0", all[1] + "/srv": "755 0:0", all[1] + "/srv/app": "750 1000:1000", all[2] + "/srv/app": "750 1000:1000",
		all[1] + "/new": "755 0:0", all[0]: "755 0:0", all[1]: "755 0:0", all[2]: "755 0:0",
	} {
		if got := mode(t, path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	for _, tree := range all {
		if _, err := os.Lstat(filepath.Join(filepath.Dir(tree), impliedFile)); err == nil {
			t.Errorf("%s is left", impliedFile)
		}
	}
}

// A layer that an earlier pull unpacked and did not come to stack is stacked by the next.
func TestStackedLater(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := s.build("test/app", "1", directories(t), large("srv/app/y", 100000, 1))
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, b.layers[0].Digest.String()) {
			w.WriteHeader(403)
			return true
		}
		return false
	})
	opt := options()
	opt.Layers = 1 // the larger one comes first
	if _, err := pullText(ctx, d, b.ref, opt); err == nil {
		t.Fatal("the lower layer was refused and the pull succeeded")
	}
	s.set(nil)
	img, err := pullText(ctx, d, b.ref, opt)
	if err != nil {
		t.Fatal(err)
	}
	if got := mode(t, trees(t, d, img)[1]+"/srv/app"); got != "750 1000:1000" {
		t.Errorf("implied directory: %s", got)
	}
}

func TestImpliedFile(t *testing.T) {
	dir := t.TempDir()
	for _, i := range []layer.Implied{{}, {OpaqueRoot: true}, {Dirs: []string{""}}, {Dirs: []string{"", "a", "a/b\nc"}, Whiteouts: []string{"", "a"}, OpaqueRoot: true}} {
		os.Remove(filepath.Join(dir, impliedFile))
		if err := writeImplied(dir, i); err != nil {
			t.Fatal(err)
		}
		got, err := readImplied(dir)
		if err != nil || !reflect.DeepEqual(got, i) {
			t.Errorf("%+v became %+v, %v", i, got, err)
		}
	}
}

// Blobs of no bytes are layers, as docker 1.x pushed them.
func TestEmptyBlob(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := built{ref: s.host + "/test/app:1", layers: []ocispec.Descriptor{
		s.blob("test/app", ocispec.MediaTypeImageLayerGzip, nil), s.blob("test/app", ocispec.MediaTypeImageLayerGzip, zipped(files("f", "x"))),
	}}
	b.diffIDs = []digest.Digest{digest.FromBytes(nil), digest.FromBytes(files("f", "x"))}
	b = s.push(b, "test/app", "1")
	img, err := pullText(ctx, d, b.ref, options())
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(trees(t, d, img)[1] + "/f"); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
}
