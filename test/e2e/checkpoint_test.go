// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/test/world"
)

// The media types of a checkpoint.
const (
	criuType   = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
	specType   = "application/vnd.containerd.container.checkpoint.config.v1+proto"
	recordType = "application/vnd.ctrd.container.v1+json"
	volumeType = "application/vnd.ctrd.container.volume.v1.tar+gzip"
)

// saved is a checkpoint that a test makes.
type saved struct {
	criu   []byte // the archive
	spec   []byte
	record []byte
	change []byte // nil: none
	volume []byte // nil: none
	place  string // of the volume
	says   string // in the error about it
	base   string
}

// layout gives it as an OCI layout, under a name.
func (s saved) layout(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	file := func(name string, data []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	blob := func(mediaType string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		file("blobs/sha256/"+d.Encoded(), data)
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	document := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: criuType,
		Config: blob(specType, s.spec), Layers: []ocispec.Descriptor{blob(criuType, s.criu)}, Annotations: map[string]string{"image.name": s.base},
	}
	if s.record != nil {
		m.Layers = append(m.Layers, blob(recordType, s.record))
	}
	if s.change != nil {
		m.Layers = append(m.Layers, blob(ocispec.MediaTypeImageLayer, s.change))
	}
	if s.volume != nil {
		v := blob(volumeType, s.volume)
		v.Annotations = map[string]string{"dev.ctrd.volume": s.place}
		m.Layers = append(m.Layers, v)
	}
	target := blob(m.MediaType, document(m))
	target.Annotations = map[string]string{"io.containerd.image.name": name}
	file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	file("index.json", document(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{target}}))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// archive makes a tar archive of files, with one entry more in front of them.
func archive(t *testing.T, files map[string][]byte, more *tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h *tar.Header, data []byte) {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	if more != nil {
		h := *more
		data := []byte(nil)
		if h.Typeflag == tar.TypeReg {
			data = []byte("evil")
			h.Size = int64(len(data))
		}
		put(&h, data)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		put(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(files[name]))}, files[name])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestBadCheckpoints: a checkpoint may be anybody's. What is wrong with it is said, no container is made and one that is there stays
// as it was, and nothing is written elsewhere.
func TestBadCheckpoints(t *testing.T) {
	criu := world.Criu(t)
	w := world.New(t, bin)
	w.Env = append(w.Env, "CTRD_CRIU="+criu)
	base := registry + "/busybox:1"
	w.Must(t, "ctr-pull", "-q", base)
	w.Must(t, "ctr-task", "run", "-d", "--name", "c", base, "sh", "-c", "n=0; while true; do n=$((n+1)); echo $n; sleep 0.1; done")
	for begin := time.Now(); !strings.Contains(w.Must(t, "ctr-task", "logs", "c"), "3"); time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("it does not count")
		}
	}
	dir := t.TempDir()
	w.Must(t, "ctr-task", "checkpoint", "--dir", filepath.Join(dir, "cp"), "c")
	good := map[string][]byte{}
	entries, err := os.ReadDir(filepath.Join(dir, "cp"))
	if err != nil {
		t.Fatal(err)
	}
	core := ""
	for _, e := range entries {
		if good[e.Name()], err = os.ReadFile(filepath.Join(dir, "cp", e.Name())); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(e.Name(), "core-") {
			core = e.Name()
		}
	}
	with := func(name string, data []byte) map[string][]byte {
		all := maps.Clone(good)
		if all[name] = data; data == nil {
			delete(all, name)
		}
		return all
	}
	foreign := bytes.Clone(good[core])
	foreign[13] = 5 // after two magic numbers, a size and a tag: s390x
	dead := maps.Clone(good)
	maps.DeleteFunc(dead, func(name string, _ []byte) bool { return strings.HasPrefix(name, "core-") })
	cut := archive(t, good, nil)
	at := func(name string, typ byte, link string) []byte {
		return archive(t, good, &tar.Header{Name: name, Typeflag: typ, Linkname: link, Mode: 0o600})
	}
	const no = "is no file of its directory"
	for name, c := range map[string]struct {
		criu []byte
		says string
	}{
		"above":          {at("../evil", tar.TypeReg, ""), no},
		"far above":      {at("../../../../../../../../../../tmp/ctrd-evil", tar.TypeReg, ""), no},
		"absolute":       {at("/tmp/ctrd-evil", tar.TypeReg, ""), no},
		"below":          {at("a/evil", tar.TypeReg, ""), no},
		"link":           {at("parent", tar.TypeSymlink, "/etc"), no},
		"hard link":      {at("evil", tar.TypeLink, "../../../log"), no},
		"device":         {at("evil", tar.TypeBlock, ""), no},
		"FIFO":           {at("evil", tar.TypeFifo, ""), no},
		"twice":          {at("inventory.img", tar.TypeReg, ""), "is there twice"},
		"cut":            {cut[:len(cut)/2], "cut short"},
		"no archive":     {[]byte("evil"), "checkpoint"},
		"empty":          {archive(t, nil, nil), "it is empty"},
		"machine":        {archive(t, with("checkpoint.json", []byte(`{"criu":1,"arch":"s390x"}`)), nil), `made on "s390x" and this is`},
		"foreign core":   {archive(t, with(core, foreign), nil), `made on architecture "s390x"`},
		"newer criu":     {archive(t, with("checkpoint.json", bytes.ReplaceAll(good["checkpoint.json"], []byte(`"criu":4`), []byte(`"criu":994`))), nil), "it was made by criu 99"},
		"odd provenance": {archive(t, with("checkpoint.json", []byte("{")), nil), "checkpoint.json"},
		"no process":     {archive(t, dead, nil), "has no process"},
		"junk":           {archive(t, with("inventory.img", []byte("junk")), nil), "criu"},
		"no descriptors": {archive(t, with("descriptors.json", nil), nil), "descriptors.json"},
		"odd streams":    {archive(t, with("descriptors.json", []byte(`["file[1:1]","file[1:1]","file[1:1]"]`)), nil), "was a FIFO"},
		"no memory":      {archive(t, with("pages-1.img", nil), nil), "criu"},
	} {
		t.Run(name, func(t *testing.T) {
			tag := "bad:" + strings.ReplaceAll(strings.ToLower(name), " ", "-")
			file := filepath.Join(t.TempDir(), "layout.tar")
			if err := os.WriteFile(file, saved{criu: c.criu, spec: []byte("none"), base: base}.layout(t, tag), 0o600); err != nil {
				t.Fatal(err)
			}
			w.Must(t, "ctr-image", "import", "-q", file)
			if r := w.Run(t, nil, "ctr-task", "restore", "--image", tag, "c"); r.Status == 0 || !strings.Contains(r.Stderr, c.says) {
				t.Errorf("want an error that says %q: %s", c.says, r)
			}
			if got := w.Must(t, "ctr-task", "ls", "-o", "id,status"); !strings.HasPrefix(got, "c\tcreated") && !strings.HasPrefix(got, "c\tstopped") || strings.Count(got, "\n") != 1 {
				t.Errorf("containers: %s", got)
			}
			for _, pattern := range []string{"/tmp/ctrd-evil", filepath.Join(w.Root, "containers/*/*/*evil*"), filepath.Join(w.Root, "containers/*/*/restore-*"), filepath.Join(w.Root, "containers/*/*evil*")} {
				if found, _ := filepath.Glob(pattern); len(found) > 0 {
					t.Errorf("there is %v", found)
				}
			}
		})
	}

	// A new container is made of nothing of what its document says wrongly.
	spec := func(json string) []byte { return append([]byte{0x12, byte(len(json))}, json...) }
	evil := archive(t, nil, &tar.Header{Name: "../../../../../../../../../../../../../../tmp/ctrd-evil", Typeflag: tar.TypeReg, Mode: 0o600})
	whole := `{"process":{"args":["sh"],"cwd":"/"},"root":{"path":"/etc"},"linux":{}}`
	mounted := `{"process":{},"root":{},"linux":{},"mounts":[{"destination":"/v","type":"bind","source":"volumes/0"}]}`
	var packed bytes.Buffer
	gz := gzip.NewWriter(&packed)
	gz.Write(evil)
	gz.Close()
	for name, s := range map[string]saved{
		"no such volume":         {spec: spec(mounted), volume: packed.Bytes(), place: "/etc", says: "no volume at"},
		"volume elsewhere":       {spec: spec(mounted), volume: packed.Bytes(), place: "/v", says: "volume at /v: layer entry"},
		"no spec":                {spec: []byte("none")},
		"not of linux":           {spec: spec(`{"process":{"args":["sh"]}}`)},
		"a pod's":                {spec: spec(whole), record: []byte(`{"sandbox":"x"}`)},
		"another one's":          {spec: spec(whole), record: []byte(`{"join":{"net":{"id":"x"}}}`)},
		"odd record":             {spec: spec(whole), record: []byte(`[`)},
		"files of another place": {spec: spec(whole), change: evil},
		"no layer":               {spec: spec(whole), change: []byte("evil")},
	} {
		t.Run(name, func(t *testing.T) {
			tag := "bad:new-" + strings.ReplaceAll(name, " ", "-")
			tag = strings.ReplaceAll(tag, "'", "")
			s.criu, s.base = archive(t, good, nil), base
			file := filepath.Join(t.TempDir(), "layout.tar")
			if err := os.WriteFile(file, s.layout(t, tag), 0o600); err != nil {
				t.Fatal(err)
			}
			w.Must(t, "ctr-image", "import", "-q", file)
			if r := w.Run(t, nil, "ctr-task", "restore", "--image", tag, "--name", "n"); r.Status == 0 || !strings.Contains(r.Stderr, s.says) {
				t.Errorf("want an error that says %q: %s", s.says, r)
			}
			if got := w.Must(t, "ctr-task", "ls", "-q"); got != "c\n" {
				t.Errorf("containers: %s", got)
			}
			if _, err := os.Lstat("/tmp/ctrd-evil"); err == nil {
				t.Error("a file was written elsewhere")
			}
		})
	}

	// Bytes that were changed on the disk are found before anything is made of them.
	tag := "bad:changed"
	file := filepath.Join(dir, "layout.tar")
	if err := os.WriteFile(file, saved{criu: archive(t, good, nil), spec: []byte("none"), base: base}.layout(t, tag), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Must(t, "ctr-image", "import", "-q", file)
	data := archive(t, good, nil)
	path := filepath.Join(w.Root, "content/blobs/sha256", digest.FromBytes(data).Encoded())
	data[bytes.Index(data, good["pages-1.img"])+100] ^= 1
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o444); err != nil {
		t.Fatal(err)
	}
	if r := w.Run(t, nil, "ctr-task", "restore", "--image", tag, "c"); r.Status != 8 || !strings.Contains(r.Stderr, "another digest") {
		t.Errorf("want status 8: %s", r)
	}
	// The container goes on from the good one after all that.
	w.Must(t, "ctr-task", "restore", "--dir", filepath.Join(dir, "cp"), "c")
	w.Must(t, "ctr-task", "exec", "c", "true")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.Must(t, "ctr-task", "rm", "-f", "c")
	if left := fmt.Sprint(w.Leaks()); left != "[]" {
		t.Error(left)
	}
}
