// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

func give(t *testing.T, d *state.Dir, opt ExportOptions, names ...string) []byte {
	t.Helper()
	opt.Namespace = ns
	var buf bytes.Buffer
	if err := Export(t.Context(), d, &buf, names, opt); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// list gives the names in a tar.
func list(t *testing.T, data []byte) (all []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h.Name)
	}
}

// What was exported is imported as it was, and exported again gives the same bytes.
func TestRoundTrip(t *testing.T) {
	d := openDir(t)
	var l layout
	index := l.index(on(l.image("", "mine"), ""), on(l.image("linux/s390x", "theirs"), "linux/s390x"))
	data := pack(l.end(called(index, AnnotationName, "app:1"), called(l.image("", "two"), AnnotationName, "reg.example/two:2"))...)
	take(t, d, data, ImportOptions{AllPlatforms: true})
	out := give(t, d, ExportOptions{AllPlatforms: true}, "app:1", "reg.example/two:2", "app:1")
	other := openDir(t)
	got := take(t, other, out, ImportOptions{AllPlatforms: true})
	if names(got) != "app:1 reg.example/two:2" || got[0].Target.Digest != index.Digest {
		t.Errorf("imported %v", got)
	}
	if hello(t, other, got[0], "") != "mine" || hello(t, other, got[0], "linux/s390x") != "theirs" || hello(t, other, got[1], "") != "two" {
		t.Error("the layers are others")
	}
	if again := give(t, other, ExportOptions{}, "app:1", "reg.example/two:2"); !bytes.Equal(again, out) {
		t.Error("exported again it has other bytes")
	}
	if late := give(t, other, ExportOptions{Time: time.Unix(86400, 0)}, "app:1"); bytes.Equal(late, give(t, other, ExportOptions{}, "app:1")) {
		t.Error("the time of the files does not count")
	}
}

func TestExportPlatforms(t *testing.T) {
	d := openDir(t)
	var l layout
	index := l.index(on(l.image("", "mine"), ""), on(l.image("linux/s390x", "theirs"), "linux/s390x"))
	take(t, d, pack(l.end(called(index, AnnotationName, "app:1"))...), ImportOptions{})
	if got := list(t, give(t, d, ExportOptions{}, "app:1")); len(got) != 9 {
		t.Errorf("what is here: %q", got)
	}
	if got := list(t, give(t, d, ExportOptions{NoManifest: true}, "app:1")); len(got) != 8 {
		t.Errorf("without manifest.json: %q", got)
	}
	s390x := []ocispec.Platform{{OS: "linux", Architecture: "s390x"}}
	for name, opt := range map[string]ExportOptions{"all": {AllPlatforms: true}, "one": {Platforms: s390x}} {
		opt.Namespace = ns
		if err := Export(t.Context(), d, io.Discard, []string{"app:1"}, opt); !errdefs.IsNotFound(err) {
			t.Errorf("%s that is not here: %v", name, err)
		}
	}
	if err := Export(t.Context(), d, io.Discard, []string{"app:1"}, ExportOptions{Namespace: "other"}); !errdefs.IsNotFound(err) {
		t.Errorf("of another namespace: %v", err)
	}
}

// What cannot be written is told once.
func TestExportFull(t *testing.T) {
	d := openDir(t)
	take(t, d, pack(docker("app:1")...), ImportOptions{})
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for name, export := range map[string]func(context.Context, *state.Dir, io.Writer, []string, ExportOptions) error{"oci": Export, "docker": ExportDocker} {
		err := export(t.Context(), d, full, []string{"app:1"}, ExportOptions{Namespace: ns})
		if !errors.Is(err, unix.ENOSPC) || strings.Count(err.Error(), unix.ENOSPC.Error()) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExportDocker(t *testing.T) {
	d := openDir(t)
	var l layout
	index := l.index(on(l.image("linux/s390x", "theirs"), "linux/s390x"), on(l.image("", "mine"), ""))
	take(t, d, pack(l.end(called(index, AnnotationName, "app:1"))...), ImportOptions{AllPlatforms: true})
	for platform, want := range map[string]string{"": "mine", "linux/s390x": "theirs"} {
		opt := ExportOptions{Namespace: ns}
		in := ImportOptions{}
		if platform != "" {
			p, _ := image.ParsePlatform(platform)
			opt.Platforms, in.Platforms = []ocispec.Platform{p}, []ocispec.Platform{p}
		}
		var buf bytes.Buffer
		if err := ExportDocker(t.Context(), d, &buf, []string{"app:1"}, opt); err != nil {
			t.Fatal(err)
		}
		other := openDir(t)
		got := take(t, other, buf.Bytes(), in)
		if names(got) != "app:1" || hello(t, other, got[0], platform) != want {
			t.Errorf("%s: imported %q", platform, names(got))
		}
	}
}

func TestExportDir(t *testing.T) {
	d := openDir(t)
	var l layout
	take(t, d, pack(l.end(called(l.image("", "text"), AnnotationName, "app:1"))...), ImportOptions{})
	dir := filepath.Join(t.TempDir(), "out")
	if err := ExportDir(t.Context(), d, dir, []string{"app:1"}, ExportOptions{Namespace: ns}); err != nil {
		t.Fatal(err)
	}
	other := openDir(t)
	got, err := ImportDir(t.Context(), other, dir, ImportOptions{Namespace: ns})
	if err != nil || names(got) != "app:1" {
		t.Errorf("imported %q, %v", names(got), err)
	}
	if err := ExportDir(t.Context(), d, dir, []string{"app:1"}, ExportOptions{Namespace: ns}); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a directory: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// A blob that is damaged on the disk ends the export, and the file that was there stays.
func TestExportDamaged(t *testing.T) {
	d := openDir(t)
	var l layout
	m := l.image("", "text")
	take(t, d, pack(l.end(called(m, AnnotationName, "app:1"))...), ImportOptions{})
	layer := strings.TrimPrefix(l.files[1].name, "blobs/sha256/")
	path := d.Path("content", "blobs", "sha256", layer)
	bad := bytes.Clone(l.files[1].data)
	bad[len(bad)/2] ^= 1
	if err := errors.Join(os.Remove(path), os.WriteFile(path, bad, 0o444)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := ToFile(t.Context(), file, 0o666, func(w io.Writer) error {
		return Export(t.Context(), d, w, []string{"app:1"}, ExportOptions{Namespace: ns})
	})
	if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), layer) {
		t.Errorf("error %v", err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "old" {
		t.Errorf("the file has %q, %v", data, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if err := os.Remove(content.Path(d, m.Digest)); err != nil {
		t.Fatal(err)
	}
	if err := Export(t.Context(), d, io.Discard, []string{"app:1"}, ExportOptions{Namespace: ns}); !errdefs.IsNotFound(err) {
		t.Errorf("without its manifest: %v", err)
	}
}

func TestToFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	write := func(w io.Writer) error { _, err := io.WriteString(w, "text"); return err }
	unnamed := func(path string, fn func(io.Writer) error) error { return ToFile(t.Context(), path, 0o640, fn) }
	named := func(path string, fn func(io.Writer) error) error { return toNamed(path, 0o640, fn) }
	for name, to := range map[string]func(string, func(io.Writer) error) error{"without a name": unnamed, "named": named} {
		for range 2 {
			if err := to(path, write); err != nil {
				t.Fatal(name, err)
			}
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != "text" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm()&0o027 != 0 {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Symlink("x", link), ToFile(t.Context(), link, 0o666, write), ToFile(t.Context(), "/dev/null", 0o666, write)); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(link); err != nil || to != "x" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}
