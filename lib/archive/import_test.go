// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

const ns = "ns"

func openDir(t testing.TB) *state.Dir {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("unpacking needs root")
	}
	base := t.TempDir()
	d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "state"), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// file is one entry of an archive under test.
type file struct {
	name string
	data []byte
	link string
	hard bool
}

func text(name, data string) file { return file{name: name, data: []byte(data)} }

func asJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// pack makes a tar of files.
func pack(all ...file) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range all {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), Typeflag: tar.TypeReg}
		if f.link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.link, 0
			if f.hard {
				h.Typeflag = tar.TypeLink
			}
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		w.Write(f.data)
	}
	w.Close()
	return buf.Bytes()
}

func zipped(data []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(data)
	z.Close()
	return buf.Bytes()
}

// layout collects the files of an OCI layout.
type layout struct{ files []file }

func (l *layout) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	l.files = append(l.files, file{name: "blobs/sha256/" + d.Digest.Encoded(), data: data})
	return d
}

// image adds an image for a platform; its one layer has the file that content says.
func (l *layout) image(platform, content string) ocispec.Descriptor {
	layer := pack(text("hello", content))
	p, err := image.ParsePlatform(platform)
	if err != nil {
		panic(err)
	}
	config := l.blob(ocispec.MediaTypeImageConfig, asJSON(ocispec.Image{
		Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	}))
	return l.manifest(config, l.blob(ocispec.MediaTypeImageLayerGzip, zipped(layer)))
}

func (l *layout) manifest(config ocispec.Descriptor, layers ...ocispec.Descriptor) ocispec.Descriptor {
	return l.blob(ocispec.MediaTypeImageManifest, asJSON(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers,
	}))
}

func (l *layout) index(all ...ocispec.Descriptor) ocispec.Descriptor {
	return l.blob(ocispec.MediaTypeImageIndex, indexOf(all...))
}

func indexOf(all ...ocispec.Descriptor) []byte {
	return asJSON(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: all})
}

// end gives all files, with the index that names these images.
func (l *layout) end(all ...ocispec.Descriptor) []file {
	return append(slices.Clip(l.files), text("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file{name: "index.json", data: indexOf(all...)})
}

func called(d ocispec.Descriptor, key, name string) ocispec.Descriptor {
	d.Annotations = map[string]string{key: name}
	return d
}

func on(d ocispec.Descriptor, platform string) ocispec.Descriptor {
	p, err := image.ParsePlatform(platform)
	if err != nil {
		panic(err)
	}
	d.Platform = &p
	return d
}

// docker makes the files of a docker-archive of one image.
func docker(tags ...string) []file {
	layer := pack(text("hello", "docker"))
	config := asJSON(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: host().Architecture},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	return []file{
		{name: "c.json", data: config}, {name: "l/layer.tar", data: layer}, text("l/VERSION", "1.0"),
		{name: "manifest.json", data: asJSON([]saved{{Config: "c.json", RepoTags: tags, Layers: []string{"l/layer.tar"}}})},
	}
}

func host() ocispec.Platform {
	p, err := image.ParsePlatform("")
	if err != nil {
		panic(err)
	}
	return p
}

func names(all []image.Image) string {
	var list []string
	for _, img := range all {
		list = append(list, image.Familiar(img.Name))
	}
	return strings.Join(list, " ")
}

func take(t *testing.T, d *state.Dir, data []byte, opt ImportOptions) []image.Image {
	t.Helper()
	opt.Namespace = ns
	all, err := Import(t.Context(), d, bytes.NewReader(data), opt)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// hello reads the file of an image's uppermost layer.
func hello(t *testing.T, d *state.Dir, img image.Image, platform string) string {
	t.Helper()
	p, err := image.ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.Resolve(d, img.Target, p)
	if err != nil {
		t.Fatal(err)
	}
	var tree string
	err = d.View(t.Context(), func(tx *state.Tx) error {
		s, err := snapshot.Overlay.Get(tx, ns, m.ChainIDs[len(m.ChainIDs)-1].String())
		tree = snapshot.Overlay.FS(d, s.ID)
		return err
	})
	if err != nil {
		return "no snapshot"
	}
	data, err := os.ReadFile(filepath.Join(tree, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestImportLayout(t *testing.T) {
	for name, c := range map[string]struct {
		opt  ImportOptions
		call func(ocispec.Descriptor) ocispec.Descriptor
		want string
	}{
		"containerd's name": {call: func(d ocispec.Descriptor) ocispec.Descriptor {
			return called(d, AnnotationName, "docker.io/library/app:1")
		}, want: "app:1"},
		"a name that was taken along": {call: func(d ocispec.Descriptor) ocispec.Descriptor {
			d = called(d, AnnotationName, "reg.example/app:1")
			d.Annotations[ocispec.AnnotationRefName] = "2"
			return d
		}, want: "reg.example/app:2"},
		"a whole reference": {call: func(d ocispec.Descriptor) ocispec.Descriptor {
			return called(d, ocispec.AnnotationRefName, "reg.example/app:1")
		}, want: "reg.example/app:1"},
		"a tag": {call: func(d ocispec.Descriptor) ocispec.Descriptor { return called(d, ocispec.AnnotationRefName, "v1") }, want: "localhost/import:v1"},
		"a tag and a base": {opt: ImportOptions{BaseName: "reg.example/x"}, call: func(d ocispec.Descriptor) ocispec.Descriptor {
			return called(d, ocispec.AnnotationRefName, "v1")
		}, want: "reg.example/x:v1"},
		"a name of the user": {opt: ImportOptions{Name: "mine"}, call: func(d ocispec.Descriptor) ocispec.Descriptor {
			return called(d, ocispec.AnnotationRefName, "v1")
		}, want: "mine:latest"},
	} {
		t.Run(name, func(t *testing.T) {
			d := openDir(t)
			var l layout
			all := take(t, d, pack(l.end(c.call(l.image("", "text")))...), c.opt)
			if names(all) != c.want {
				t.Errorf("imported %q, want %q", names(all), c.want)
			}
			if got := hello(t, d, all[0], ""); got != "text" {
				t.Errorf("the layer has %q", got)
			}
		})
	}
}

// An archive that is not unpacked is stored as it is: nobody reads what its configurations say of their layers.
func TestImportAsIs(t *testing.T) {
	var l layout
	m := l.image("", "text")
	config := l.blob(ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64"}`))
	odd := l.manifest(config, m)
	data := pack(l.end(called(odd, AnnotationName, "odd:1"))...)
	if got := take(t, openDir(t), data, ImportOptions{NoUnpack: true, AllPlatforms: true}); names(got) != "odd:1" {
		t.Errorf("imported %q", names(got))
	}
	if _, err := Import(t.Context(), openDir(t), bytes.NewReader(data), ImportOptions{Namespace: ns, AllPlatforms: true}); err == nil {
		t.Errorf("unpacked: %v", err)
	}
}

// Names decides what everything is called, with its labels; the archive's index is kept when it has a name.
func TestImportNames(t *testing.T) {
	var l layout
	m := l.image("", "text")
	m.Annotations = map[string]string{ocispec.AnnotationRefName: "2"}
	data := pack(l.end(m)...)
	for want, names := range map[string]func(Item) []Name{
		"": func(Item) []Name { return nil },
		"r/index r/m": func(it Item) []Name {
			return []Name{{"r/" + map[bool]string{true: "index", false: "m"}[it.Index], map[string]string{"tag": it.Tag}}}
		},
	} {
		d := openDir(t)
		all := take(t, d, data, ImportOptions{NoUnpack: true, Names: names})
		var got []string
		for _, img := range all {
			got = append(got, img.Name)
			if image.IsIndex(img.Target.MediaType) == (img.Labels["tag"] == "2") {
				t.Errorf("%s: %s, labels %v", img.Name, img.Target.MediaType, img.Labels)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("imported %q, want %q", got, want)
		}
	}
}

// What has no name is not lost, and --digests adds names.
func TestImportDigests(t *testing.T) {
	d := openDir(t)
	var l layout
	a, b := l.image("", "a"), l.image("", "b")
	all := take(t, d, pack(l.end(a, called(b, AnnotationName, "app:1"))...), ImportOptions{Digests: true})
	want := "localhost/import@" + a.Digest.String() + " app:1 app@" + b.Digest.String()
	if names(all) != want {
		t.Errorf("imported %q, want %q", names(all), want)
	}
}

// All that a tool writes around the archive is undone, and a directory is as good.
func TestImportForms(t *testing.T) {
	var l layout
	all := l.end(called(l.image("", "text"), AnnotationName, "app:1"))
	plain := pack(all...)
	z, _ := zstd.NewWriter(nil)
	dotted := slices.Clone(all)
	for i := range dotted {
		dotted[i].name = "./" + dotted[i].name
	}
	for name, data := range map[string][]byte{"plain": plain, "gzip": zipped(plain), "zstd": z.EncodeAll(plain, nil), "dots": pack(dotted...)} {
		d := openDir(t)
		if got := take(t, d, data, ImportOptions{}); names(got) != "app:1" || hello(t, d, got[0], "") != "text" {
			t.Errorf("%s: %q", name, names(got))
		}
	}
	dir := t.TempDir()
	for _, f := range all {
		path := filepath.Join(dir, f.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, f.data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	d := openDir(t)
	got, err := ImportDir(t.Context(), d, dir, ImportOptions{Namespace: ns})
	if err != nil || names(got) != "app:1" || hello(t, d, got[0], "") != "text" {
		t.Errorf("directory: %q, %v", names(got), err)
	}
	for to, name := range map[string]string{"../out": "x", "nothing": "y"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		_, err := ImportDir(t.Context(), d, dir, ImportOptions{Namespace: ns})
		var format *FormatError
		if !errors.As(err, &format) || !strings.Contains(err.Error(), fmt.Sprintf("the link %q leads to %q, which is not in the archive", name, to)) {
			t.Errorf("a link to %s: %v", to, err)
		}
		os.Remove(filepath.Join(dir, name))
	}
}

// A directory that is no archive is not read: nobody knows what else is in it.
func TestImportNoArchive(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "large"), []byte("data"), 0o644), os.Symlink("/", filepath.Join(dir, "out"))); err != nil {
		t.Fatal(err)
	}
	d := openDir(t)
	var format *FormatError
	if _, err := ImportDir(t.Context(), d, dir, ImportOptions{Namespace: ns}); !errors.As(err, &format) || !strings.Contains(err.Error(), "neither index.json nor manifest.json") {
		t.Errorf("a directory of other things: %v", err)
	}
}

func TestImportDocker(t *testing.T) {
	linked := docker("app:1", "app:2")
	linked[1].name = "other/layer.tar"
	linked = append(linked, file{name: "l/layer.tar", link: "../other/layer.tar"})
	hard := docker("app:1", "app:2")
	hard[1].name = "other"
	hard = append(hard, file{name: "l/layer.tar", link: "other", hard: true})
	gz := docker("app:1", "app:2")
	gz[1].data = zipped(gz[1].data)
	for name, all := range map[string][]file{"plain": docker("app:1", "app:2"), "symbolic link": linked, "hard link": hard, "gzip": gz} {
		d := openDir(t)
		got := take(t, d, pack(all...), ImportOptions{})
		if names(got) != "app:1 app:2" || hello(t, d, got[0], "") != "docker" {
			t.Errorf("%s: %q", name, names(got))
		}
		// What no image needs is gone again.
		if left, _ := filepath.Glob(d.Path("content", "blobs", "sha256", "*")); len(left) != 3 {
			t.Errorf("%s: %d blobs are left, want 3", name, len(left))
		}
	}
	d := openDir(t)
	if got := take(t, d, pack(docker()...), ImportOptions{}); !strings.HasPrefix(names(got), "localhost/import@sha256:") {
		t.Errorf("without a name: %q", names(got))
	}
}

// An archive with both descriptions, as docker writes it since version 25, counts as a layout and takes names of both.
func TestImportBoth(t *testing.T) {
	var l layout
	m := l.image("", "text")
	config := l.files[0].name
	all := append(l.end(m), file{name: "manifest.json", data: asJSON([]saved{{Config: config, RepoTags: []string{"app:1"}, Layers: []string{l.files[1].name}}})})
	d := openDir(t)
	if got := take(t, d, pack(all...), ImportOptions{}); names(got) != "app:1" || got[0].Target.Digest != m.Digest {
		t.Errorf("imported %v", got)
	}
}

func TestImportPlatforms(t *testing.T) {
	other := "linux/s390x"
	build := func(lack bool) (*layout, []byte) {
		var l layout
		mine := on(l.image("", "mine"), "")
		files := len(l.files)
		theirs := on(l.image(other, "theirs"), other)
		if lack {
			l.files = l.files[:files]
		}
		note := l.blob("application/vnd.in-toto+json", []byte(`{}`))
		config := l.blob(ocispec.MediaTypeImageConfig, []byte(`{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":["`+note.Digest.String()+`"]}}`))
		attestation := l.manifest(config, note)
		attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
		return &l, pack(l.end(called(l.index(mine, theirs, attestation), AnnotationName, "app:1"))...)
	}
	for name, c := range map[string]struct {
		lack         bool
		opt          ImportOptions
		mine, theirs string
		blobs        int
		err          string
	}{
		"default":           {mine: "mine", theirs: "absent", blobs: 4},
		"default, lacking":  {lack: true, mine: "mine", theirs: "absent", blobs: 4},
		"all":               {opt: ImportOptions{AllPlatforms: true}, mine: "mine", theirs: "theirs", blobs: 10},
		"all, lacking":      {lack: true, opt: ImportOptions{AllPlatforms: true}, mine: "mine", theirs: "absent", blobs: 7},
		"all, not unpacked": {opt: ImportOptions{AllPlatforms: true, NoUnpack: true}, mine: "no snapshot", theirs: "no snapshot", blobs: 10},
		"one":               {opt: ImportOptions{Platforms: []ocispec.Platform{{OS: "linux", Architecture: "s390x"}}}, mine: "absent", theirs: "theirs", blobs: 4},
		"one, lacking":      {lack: true, opt: ImportOptions{Platforms: []ocispec.Platform{{OS: "linux", Architecture: "s390x"}}}, err: "is not there"},
	} {
		t.Run(name, func(t *testing.T) {
			d := openDir(t)
			_, data := build(c.lack)
			c.opt.Namespace = ns
			got, err := Import(t.Context(), d, bytes.NewReader(data), c.opt)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for platform, want := range map[string]string{"": c.mine, other: c.theirs} {
				p, _ := image.ParsePlatform(platform)
				have := "absent"
				if _, err := image.Resolve(d, got[0].Target, p); err == nil {
					have = hello(t, d, got[0], platform)
				}
				if have != want {
					t.Errorf("%s has %q, want %q", platform, have, want)
				}
			}
			if left, _ := filepath.Glob(d.Path("content", "blobs", "sha256", "*")); len(left) != c.blobs {
				t.Errorf("%d blobs, want %d", len(left), c.blobs)
			}
		})
	}
}

// An image for another machine alone is taken and not unpacked, and the user is told.
func TestImportForeign(t *testing.T) {
	d := openDir(t)
	var l layout
	var said string
	got := take(t, d, pack(l.end(called(l.image("linux/s390x", "x"), AnnotationName, "app:1"))...), ImportOptions{Warn: func(s string) { said = s }})
	if names(got) != "app:1" || hello(t, d, got[0], "linux/s390x") != "no snapshot" || !strings.Contains(said, "app:1 is not unpacked") {
		t.Errorf("imported %q, said %q", names(got), said)
	}
}

// An index of the archive's own, of several images that have no other.
func TestImportIndex(t *testing.T) {
	d := openDir(t)
	var l layout
	all := l.end(on(l.image("", "mine"), ""), on(l.image("linux/s390x", "theirs"), "linux/s390x"))
	got := take(t, d, pack(all...), ImportOptions{IndexName: "app:1", NoUnpack: false})
	last := got[len(got)-1]
	if image.Familiar(last.Name) != "app:1" || hello(t, d, last, "") != "mine" {
		t.Errorf("imported %q", names(got))
	}
	_, err := Import(t.Context(), d, bytes.NewReader(pack(all...)), ImportOptions{Namespace: ns, Name: "app:2"})
	if err == nil || !strings.Contains(err.Error(), "the archive has 2 images") {
		t.Errorf("one name for two: %v", err)
	}
}

// The second import of the same writes nothing anew, and one that brings what is missing of an image completes it.
func TestImportAgain(t *testing.T) {
	d := openDir(t)
	var l layout
	data := pack(l.end(called(l.image("", "text"), AnnotationName, "app:1"))...)
	first := take(t, d, data, ImportOptions{NoUnpack: true})
	second := take(t, d, data, ImportOptions{})
	if !first[0].Updated.Equal(second[0].Updated) || hello(t, d, second[0], "") != "text" {
		t.Errorf("%v, then %v", first, second)
	}
	// Without the layer: this namespace has it, another one may not use it.
	thin := slices.DeleteFunc(l.end(called(l.blob("", nil), AnnotationName, "")), func(f file) bool { return true })
	for _, f := range l.end(called(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: first[0].Target.Digest, Size: first[0].Target.Size}, AnnotationName, "app:2")) {
		if !bytes.HasPrefix(f.data, []byte("\x1f\x8b")) {
			thin = append(thin, f)
		}
	}
	if got := take(t, d, pack(thin...), ImportOptions{}); names(got) != "app:2" {
		t.Errorf("imported %q", names(got))
	}
	_, err := Import(t.Context(), d, bytes.NewReader(pack(thin...)), ImportOptions{Namespace: "other"})
	if err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("in another namespace: %v", err)
	}
	// Nor by an archive that has other bytes under the layer's name; with the layer's own it is taken.
	all := l.end(called(first[0].Target, AnnotationName, "app:1"))
	forged := slices.Clone(all)
	for i, f := range forged {
		if bytes.HasPrefix(f.data, []byte("\x1f\x8b")) {
			forged[i].data = make([]byte, len(f.data))
		}
	}
	_, err = Import(t.Context(), d, bytes.NewReader(pack(forged...)), ImportOptions{Namespace: "other"})
	var format *FormatError
	if !errors.As(err, &format) || !strings.Contains(err.Error(), "its bytes have digest") {
		t.Errorf("forged, in another namespace: %v", err)
	}
	if got, err := Import(t.Context(), d, bytes.NewReader(pack(all...)), ImportOptions{Namespace: "other"}); err != nil || names(got) != "app:1" {
		t.Errorf("imported %q, %v", names(got), err)
	}
}

// invisible checks that a failed import left nothing.
func invisible(t *testing.T, d *state.Dir, what string) {
	t.Helper()
	err := d.View(t.Context(), func(tx *state.Tx) error {
		for _, name := range []string{"images", "content", "snapshots/overlayfs"} {
			all, err := state.Table[any]{Name: name}.Namespaces(tx)
			if err != nil {
				return err
			}
			if len(all) > 0 {
				t.Errorf("%s: records in %s", what, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, dir := range []string{d.Path("content", "blobs", "sha256"), d.Path("content", "ingest"), d.Path("snapshots", "overlayfs"), d.Path("trash"), d.Run("leases")} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s: left in %s: %v", what, dir, left)
		}
	}
}

func TestImportHostile(t *testing.T) {
	good := func() []file {
		var l layout
		return l.end(called(l.image("", "text"), AnnotationName, "app:1"))
	}
	change := func(name string, data []byte) []byte {
		all := good()
		for i := range all {
			if strings.HasSuffix(all[i].name, name) {
				all[i].data = data
			}
		}
		return pack(all...)
	}
	flipped := good()
	flipped[1].data = bytes.Clone(flipped[1].data)
	flipped[1].data[len(flipped[1].data)-1] ^= 1
	var wrong layout
	p := host()
	wrongLayer := wrong.manifest(wrong.blob(ocispec.MediaTypeImageConfig, asJSON(ocispec.Image{
		Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("other")}},
	})), wrong.blob(ocispec.MediaTypeImageLayer, pack(text("hello", "x"))))
	var two layout
	a, b := two.image("", "a"), two.image("", "b")
	twice := docker("app:1")
	loop := append(docker("app:1")[:1], file{name: "l/layer.tar", link: "../m"}, file{name: "m", link: "l/layer.tar"}, docker("app:1")[3])
	plain := pack(good()...)
	for name, c := range map[string]struct {
		data []byte
		text string
	}{
		"empty":            {nil, "the archive is empty"},
		"no tar":           {bytes.Repeat([]byte("x"), 4096), "invalid tar header"},
		"no image":         {pack(text("a", "1"), text("b", "2")), "neither index.json nor manifest.json"},
		"old docker":       {pack(text("repositories", `{"app":{"1":"x"}}`), text("x/layer.tar", "1")), "docker before version 1.10"},
		"layout alone":     {pack(text("oci-layout", "{}")), "no index.json"},
		"version":          {change("oci-layout", []byte(`{"imageLayoutVersion":"2.0.0"}`)), `version "2.0.0"`},
		"leads out":        {pack(append(good(), text("../x", "1"))...), "has .. in its name"},
		"link leads out":   {pack(append(good(), file{name: "x", link: "../../etc/passwd"})...), `the link "x" leads to "../../etc/passwd", which is not in the archive`},
		"blob's name":      {pack(append(good(), text("blobs/sha256/xyz", "1"))...), `blob "blobs/sha256/xyz"`},
		"flipped bit":      {pack(flipped...), "its bytes have digest"},
		"truncated":        {plain[:600], "ends early"},
		"truncated gzip":   {zipped(plain)[:300], "ends early"},
		"gzip's header":    {zipped(plain)[:8], "ends early"},
		"large index":      {change("index.json", make([]byte, image.MaxManifest+1)), "at most"},
		"index is no JSON": {change("index.json", []byte("{")), "index.json"},
		"no images":        {change("index.json", []byte(`{"schemaVersion":2,"manifests":[]}`)), "has no image"},
		"lost blob":        {pack(good()[1:]...), "is not there"},
		"lost manifest":    {pack(good()[3:]...), "is not there"},
		"two of a name":    {pack(two.end(called(a, AnnotationName, "app:1"), called(b, AnnotationName, "app:1"))...), "two images of the name app:1"},
		"bad name":         {pack(two.end(called(a, AnnotationName, "App:/"))...), "index.json: image reference"},
		"wrong diff id":    {pack(wrong.end(called(wrongLayer, AnnotationName, "app:1"))...), "diff id"},
		"index twice":      {pack(append(good(), text("index.json", "{}"))...), "twice"},
		"file twice":       {pack(append(twice, text("c.json", "{}"))...), "twice"},
		"lost layer":       {pack(append(docker("app:1")[:1], docker("app:1")[3])...), `names "l/layer.tar"`},
		"links in a ring":  {pack(loop...), `names "l/layer.tar"`},
		"no configuration": {pack(text("manifest.json", `[{"Layers":["x"]}]`)), "no configuration"},
		"name of a file":   {pack(append(docker("app:1")[:3], text("manifest.json", `[{"Config":"../../etc/passwd"}]`))...), `names "../../etc/passwd", which is not in the archive`},
		"docker's name":    {pack(docker("App:/")...), "manifest.json: image reference"},
	} {
		d := openDir(t)
		_, err := Import(t.Context(), d, bytes.NewReader(c.data), ImportOptions{Namespace: ns})
		var format *FormatError
		var bad *pull.ContentError
		if err == nil || !strings.Contains(err.Error(), c.text) || !errors.As(err, &format) && !errors.As(err, &bad) {
			t.Errorf("%s: error %v, want a FormatError with %q", name, err, c.text)
		}
		invisible(t, d, name)
	}
}

// endless is an archive that goes on for ever, of what.
func endless(what func(*tar.Writer) error) io.Reader {
	r, w := io.Pipe()
	go func() {
		t := tar.NewWriter(w)
		for what(t) == nil {
		}
		w.CloseWithError(io.ErrClosedPipe)
	}()
	return r
}

// What grows without an end is cut off: entries, files, a document.
func TestImportBombs(t *testing.T) {
	n := 0
	for name, c := range map[string]struct {
		what func(*tar.Writer) error
		text string
	}{
		"entries": {func(w *tar.Writer) error {
			return w.WriteHeader(&tar.Header{Name: "d", Typeflag: tar.TypeDir})
		}, "entries"},
		"names": {func(w *tar.Writer) error {
			n++
			return w.WriteHeader(&tar.Header{Name: fmt.Sprint(n, strings.Repeat("n", 900_000)), Typeflag: tar.TypeSymlink, Linkname: "x"})
		}, "names of more"},
		"document": {func(w *tar.Writer) error {
			w.WriteHeader(&tar.Header{Name: "index.json", Typeflag: tar.TypeReg, Size: 1 << 30})
			_, err := w.Write(make([]byte, 1<<20))
			return err
		}, "has 1073741824 bytes"},
	} {
		d := openDir(t)
		_, err := Import(t.Context(), d, endless(c.what), ImportOptions{Namespace: ns})
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", name, err, c.text)
		}
		invisible(t, d, name)
	}
}

// shelfOf has the files of a layout.
type shelfOf map[digest.Digest][]byte

func (s shelfOf) may(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	return s[desc.Digest] != nil, nil
}

func (s shelfOf) read(_ context.Context, desc ocispec.Descriptor) ([]byte, error) {
	return s[desc.Digest], nil
}

// What the documents of images take in memory is bounded over all images of an archive.
func TestImportManyDocuments(t *testing.T) {
	var l layout
	var all []ocispec.Descriptor
	for n := range 10 {
		all = append(all, l.image("linux/amd64", fmt.Sprint(n)))
	}
	s := shelfOf{}
	for _, f := range l.files {
		s[digest.FromBytes(f.data)] = f.data
	}
	most := all[0].Size * 10
	for _, some := range [][]ocispec.Descriptor{all[:2], all} {
		g := newGatherer(s, nil)
		g.most = most
		var err error
		for n, target := range some {
			if _, bad := g.whole(t.Context(), named{name: fmt.Sprint(n), target: target}); err == nil {
				err = bad
			}
		}
		if isFormat(err) != (len(some) == len(all)) {
			t.Errorf("%d images: %v", len(some), err)
		}
		if len(g.images) > 0 && g.images[0].RawConfig != nil {
			t.Error("a raw configuration is kept")
		}
	}
}

// A few bytes that stand for a file of any size are no file of an image.
func TestImportSparse(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hole"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "hole"), 1<<40); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "posix"} {
		data, err := exec.Command("tar", "-C", dir, "-S", "-H", format, "-c", "hole").Output()
		if err != nil {
			t.Fatal(err)
		}
		d := openDir(t)
		_, err = Import(t.Context(), d, bytes.NewReader(data), ImportOptions{Namespace: ns})
		if err == nil || !strings.Contains(err.Error(), "is a sparse file") {
			t.Errorf("%s: %v", format, err)
		}
		invisible(t, d, format)
	}
}

// A caller that goes away ends the import, and nothing is left.
func TestImportCanceled(t *testing.T) {
	d := openDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	sent := 0
	_, err := Import(ctx, d, endless(func(w *tar.Writer) error {
		if sent == 0 {
			w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 1 << 40})
		}
		if sent++; sent == 10 {
			cancel()
		}
		_, err := w.Write(make([]byte, 1<<20))
		return err
	}), ImportOptions{Namespace: ns})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	invisible(t, d, "canceled")
}
