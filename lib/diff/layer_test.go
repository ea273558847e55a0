// SPDX-License-Identifier: Apache-2.0

package diff_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/layer"
)

// entries lists a tar: name, type and link target.
func entries(t *testing.T, data []byte) []string {
	t.Helper()
	var all []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		must(t, err)
		all = append(all, strings.TrimSpace(h.Name+" "+string(h.Typeflag)+" "+h.Linkname))
	}
}

func put(t *testing.T, path, data string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(data), 0o644))
}

// TestLinks: when one name of a file is new, its others come with it, and the directories that they are in.
func TestLinks(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		put(t, dir+"/a/one", "x")
		must(t, os.Mkdir(dir+"/z", 0o755))
		must(t, os.Link(dir+"/a/one", dir+"/z/two"))
		for _, name := range []string{"/a/one", "/a", "/z"} {
			must(t, os.Chtimes(dir+name, time.Unix(1, 0), time.Unix(1, 0)))
		}
	}
	must(t, os.Link(b+"/a/one", b+"/m"))
	got := entries(t, write(t, diff.Tree{a}, diff.Tree{b}, diff.Options{}))
	if want := []string{"./ 5", "m 0", "a/ 5", "a/one 1 m", "z/ 5", "z/two 1 m"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestWhiteoutsFirst: what is gone comes before what is there.
func TestWhiteoutsFirst(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	put(t, a+"/d/z", "")
	put(t, b+"/d/a", "")
	put(t, b+"/x", "")
	put(t, a+"/x/below", "")
	got := entries(t, write(t, diff.Tree{a}, diff.Tree{b}, diff.Options{}))
	if want := []string{"./ 5", "d/ 5", "d/.wh.z 0", "d/a 0", "x 0"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	got = entries(t, write(t, diff.Tree{a}, nil, diff.Options{}))
	if want := []string{".wh.d 0", ".wh.x 0"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestCompressions: each says what it is, unpacks to one tar, and is the same twice. No time is later than Latest.
func TestCompressions(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	put(t, dir+"/f", strings.Repeat("data", 1<<20))
	put(t, dir+"/old", "")
	must(t, os.Chtimes(dir+"/old", time.Time{}, time.Unix(100, 5)))
	latest := time.Unix(1_000_000_000, 0)
	ids := map[string]bool{}
	for how, media := range map[*diff.Compression]string{
		nil: ocispec.MediaTypeImageLayer, diff.None: ocispec.MediaTypeImageLayer, diff.Gzip: ocispec.MediaTypeImageLayerGzip, diff.Zstd: ocispec.MediaTypeImageLayerZstd,
	} {
		var b bytes.Buffer
		r, err := diff.Write(t.Context(), &b, nil, diff.Tree{dir}, diff.Options{Compression: how, Latest: latest})
		must(t, err)
		if r.Descriptor.MediaType != media {
			t.Errorf("%q is %s", how, r.Descriptor.MediaType)
		}
		ids[r.DiffID.String()] = true
		at := t.TempDir()
		u, err := layer.Apply(t.Context(), bytes.NewReader(b.Bytes()), at, layer.Options{MediaType: media})
		must(t, err)
		if u.DiffID != r.DiffID {
			t.Errorf("%q: diff id %s, unpacked %s", how, r.DiffID, u.DiffID)
		}
		if again := write(t, nil, diff.Tree{dir}, diff.Options{Compression: how, Latest: latest}); !bytes.Equal(again, b.Bytes()) {
			t.Errorf("%q: other bytes the second time", how)
		}
		for name, want := range map[string]time.Time{"f": latest, "old": time.Unix(100, 5), ".": latest} {
			if st, err := os.Stat(filepath.Join(at, name)); err != nil || !st.ModTime().Equal(want) {
				t.Errorf("%s: %v, %v", name, st.ModTime(), err)
			}
		}
	}
	if len(ids) != 1 {
		t.Errorf("diff ids %v", ids)
	}
	for _, how := range diff.Compressions() {
		if got, err := diff.Named(how.String()); got != how {
			t.Errorf("%s: %v, %v", how, got, err)
		}
	}
	if _, err := diff.Named("xz"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// TestSparse: holes are zeros, wherever they are.
func TestSparse(t *testing.T) {
	dir, plain := t.TempDir(), t.TempDir()
	const size = 64 << 20
	want := make([]byte, size)
	f, err := os.Create(dir + "/f")
	must(t, err)
	for _, at := range []int{3 << 20, 20<<20 + 123, 63 << 20} {
		n := copy(want[at:], "some data")
		_, err := f.WriteAt(want[at:at+n], int64(at))
		must(t, err)
	}
	must(t, f.Truncate(size))
	must(t, f.Close())
	must(t, os.WriteFile(plain+"/f", want, 0o644))
	for _, d := range []string{dir, plain} {
		for _, name := range []string{d + "/f", d} {
			must(t, os.Chtimes(name, time.Unix(1, 0), time.Unix(1, 0)))
		}
		must(t, os.Chmod(d+"/f", 0o644))
	}
	if got := changes(t, diff.Tree{dir}, diff.Tree{plain}); len(got) != 0 {
		t.Errorf("they differ: %q", got)
	}
	if !bytes.Equal(write(t, nil, diff.Tree{dir}, diff.Options{}), write(t, nil, diff.Tree{plain}, diff.Options{})) {
		t.Error("the tar of the sparse file is another one")
	}
	must(t, os.WriteFile(plain+"/f", append(want[:size-1:size-1], 'x'), 0o644))
	must(t, os.Chtimes(plain+"/f", time.Unix(1, 0), time.Unix(1, 0)))
	if got := changes(t, diff.Tree{dir}, diff.Tree{plain}); !slices.Equal(got, []string{"/f modify"}) {
		t.Errorf("a last byte that differs: %q", got)
	}
}

// TestSockets: a socket is not in a layer, and what it stands in the place of is gone.
func TestSockets(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	put(t, a+"/d/s", "")
	must(t, os.Mkdir(b+"/d", 0o755))
	for _, name := range []string{"/d/s", "/new"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: b + name, Net: "unix"})
		must(t, err)
		defer l.Close()
	}
	want := []string{"./ 5", "d/ 5", "d/.wh.s 0"}
	for what, to := range map[string]diff.Tree{"on top": {b, a}, "another": {b}} {
		if got := entries(t, write(t, diff.Tree{a}, to, diff.Options{})); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}

// TestOverlayForms: whiteouts and opaque directories in each form that the kernel has; what cannot be read is refused.
func TestOverlayForms(t *testing.T) {
	needRoot(t)
	base, top := t.TempDir(), t.TempDir()
	for _, name := range []string{"/a", "/b", "/c/x", "/d/x"} {
		put(t, base+name, "")
	}
	must(t, unix.Mknod(top+"/a", unix.S_IFCHR, 0))
	put(t, top+"/b", "")
	must(t, unix.Setxattr(top, "trusted.overlay.opaque", []byte("x"), 0))
	must(t, unix.Setxattr(top+"/b", "trusted.overlay.whiteout", nil, 0))
	for name, attr := range map[string]string{"/c": "trusted.overlay.opaque", "/d": "user.overlay.opaque"} {
		must(t, os.Mkdir(top+name, 0o755))
		must(t, unix.Setxattr(top+name, attr, []byte("y"), 0))
	}
	must(t, unix.Mknod(top+"/c/hides-nothing", unix.S_IFCHR, 0))
	from, to := diff.Tree{base}, diff.Tree{top, base}
	got := changes(t, from, to)
	if want := []string{"/a delete", "/b delete", "/c modify", "/c/x delete", "/d modify", "/d/x delete"}; !slices.Equal(slices.DeleteFunc(got, func(c string) bool { return c == "/ modify" }), want) {
		t.Errorf("%q", got)
	}
	list := entries(t, write(t, from, to, diff.Options{}))
	if want := []string{"./ 5", ".wh.a 0", ".wh.b 0", "c/ 5", "c/.wh..wh..opq 0", "d/ 5", "d/.wh..wh..opq 0"}; !slices.Equal(list, want) {
		t.Errorf("%q", list)
	}
	must(t, unix.Setxattr(top+"/c", "trusted.overlay.redirect", []byte("/d"), 0))
	if _, err := diff.Write(t.Context(), io.Discard, from, to, diff.Options{}); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
	must(t, unix.Removexattr(top+"/c", "trusted.overlay.redirect"))
	put(t, top+"/e", "")
	must(t, unix.Setxattr(top+"/e", "trusted.overlay.metacopy", nil, 0))
	if _, err := diff.Write(t.Context(), io.Discard, from, to, diff.Options{}); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
}

// TestAttributes: the order in which a file system lists them says nothing.
func TestAttributes(t *testing.T) {
	needRoot(t)
	a, b := t.TempDir(), t.TempDir()
	names := []string{"user.b", "trusted.a", "user.a", "trusted.long" + strings.Repeat("g", 200)}
	for _, dir := range []string{a, b} {
		put(t, dir+"/f", "")
		for _, name := range names {
			must(t, unix.Setxattr(dir+"/f", name, bytes.Repeat([]byte(name), 10), 0))
		}
		must(t, os.Chtimes(dir+"/f", time.Unix(1, 0), time.Unix(1, 0)))
		slices.Reverse(names)
	}
	if got := changes(t, diff.Tree{a}, diff.Tree{b}); len(got) != 0 {
		t.Errorf("%q", got)
	}
	for name, value := range map[string]string{"user.b": "other", "user.c": ""} {
		must(t, unix.Setxattr(b+"/f", name, []byte(value), 0))
		if got := changes(t, diff.Tree{a}, diff.Tree{b}); !slices.Equal(got, []string{"/f modify"}) {
			t.Errorf("%s: %q", name, got)
		}
		must(t, unix.Setxattr(b+"/f", "user.b", bytes.Repeat([]byte("user.b"), 10), 0))
		unix.Removexattr(b+"/f", "user.c")
	}
}

// TestCannotBe: what no layer can have is an error, and no other thing.
func TestCannotBe(t *testing.T) {
	for what, spoil := range map[string]func(dir string){
		"a name":       func(dir string) { put(t, dir+"/.wh.etc", "") },
		"an attribute": func(dir string) { put(t, dir+"/f", ""); must(t, unix.Setxattr(dir+"/f", "user.a=b", nil, 0)) },
	} {
		dir := t.TempDir()
		spoil(dir)
		for _, from := range []diff.Tree{nil, {t.TempDir()}} {
			if _, err := diff.Write(t.Context(), io.Discard, from, diff.Tree{dir}, diff.Options{}); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", strings.Repeat("x", 1<<20))
	for _, how := range diff.Compressions() {
		if _, err := diff.Write(t.Context(), brokenWriter{}, nil, diff.Tree{dir}, diff.Options{Compression: how}); !errors.Is(err, errBroken) {
			t.Errorf("%s: %v", how, err)
		}
	}
	if _, err := diff.Write(t.Context(), io.Discard, nil, diff.Tree{dir + "/none"}, diff.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for range diff.Changes(t.Context(), nil, diff.Tree{dir}) {
		break // the rest is not wanted
	}
}

// An empty file where something was mounted is no change; one that has something in it is.
func TestPlaces(t *testing.T) {
	for content, want := range map[string]bool{"": false, "x": true} {
		upper := t.TempDir()
		if err := os.WriteFile(filepath.Join(upper, "hosts"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if _, err := diff.Write(t.Context(), &buf, diff.Tree{}, diff.Tree{upper}, diff.Options{Places: map[string]bool{"hosts": true}}); err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(buf.Bytes(), []byte("hosts")); got != want {
			t.Errorf("%q: it is in the layer: %t", content, got)
		}
	}
}
