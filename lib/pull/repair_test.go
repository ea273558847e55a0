// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"archive/tar"
	"bytes"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// smallDir is a state directory on a disk of 16 MiB.
func smallDir(t *testing.T) *state.Dir {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	base := t.TempDir()
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
	return openDir(t, base)
}

// Bytes that are not the blob's, and make the kernel refuse something before their digest is known: they
// are not kept for the next pull, whoever sent them.
func TestPoison(t *testing.T) {
	var capability bytes.Buffer
	w := tar.NewWriter(&capability)
	w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "x"}})
	// What is read at once must be there.
	rest := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(rest)
	w.WriteHeader(&tar.Header{Name: "rest", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(rest))})
	w.Write(rest)
	for name, evil := range map[string][]byte{
		"capability": zipped(capability.Bytes()),
		"full disk":  zipped(files("f", string(make([]byte, 32<<20)), "rest", string(rest))),
	} {
		d := smallDir(t)
		s := newServer(t)
		b := s.build("test/app", "1", large("a", 4<<20, 7))
		sent := make(chan struct{}, 10)
		s.set(stall(b.layers[0].Digest.String(), append(evil, make([]byte, int(b.layers[0].Size)-len(evil))...), len(evil), sent))
		if _, err := pullText(ctx, d, b.ref, options()); err == nil {
			t.Fatalf("%s: it is accepted", name)
		}
		invisible(t, d, name)
		if _, err := os.Stat(content.IngestPath(d, b.layers[0].Digest)); !os.IsNotExist(err) {
			t.Errorf("%s: the bytes are kept: %v", name, err)
		}

		// A process that was killed has left them.
		i, err := content.Begin(ctx, d, nil, b.layers[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.WriteAt(evil, 0); err != nil {
			t.Fatal(err)
		}
		i.Close()
		s.set(nil)
		if _, err := pullText(ctx, d, b.ref, options()); err != nil {
			t.Errorf("%s: the right bytes do not help: %v", name, err)
		}
	}
}

// configOf gives the descriptor of an image's configuration.
func configOf(t *testing.T, d *state.Dir, b built) ocispec.Descriptor {
	t.Helper()
	p, _ := image.ParsePlatform("")
	m, err := image.Resolve(d, b.manifest, p)
	if err != nil {
		t.Fatal(err)
	}
	return m.Manifest.Config
}

func TestPoisonedConfig(t *testing.T) {
	s := newServer(t)
	b := s.build("test/app", "1", files("a", "1"))
	first := openDir(t, t.TempDir())
	if _, err := pullText(ctx, first, b.ref, options()); err != nil {
		t.Fatal(err)
	}
	config := configOf(t, first, b)
	d := openDir(t, t.TempDir())
	i, err := content.Begin(ctx, d, nil, config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.WriteAt(make([]byte, config.Size-5), 0); err != nil {
		t.Fatal(err)
	}
	i.Close()
	if _, err := pullText(ctx, d, b.ref, options()); err != nil {
		t.Error(err)
	}
}

// Files that were damaged or removed behind the back of the records: the next pull brings them again.
func TestRepair(t *testing.T) {
	s := newServer(t)
	b := s.build("test/app", "1", files("a", strings.Repeat("text ", 1000)))
	d := openDir(t, t.TempDir())
	pull := func(what string) {
		t.Helper()
		if _, err := pullText(ctx, d, b.ref, options()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got, err := os.ReadFile(snapshot.Overlay.FS(d, snapshot.LayerID(image.ChainIDs(b.diffIDs)[0])) + "/a")
		if err != nil || len(got) != 5000 {
			t.Errorf("%s: the layer has %d bytes, %v", what, len(got), err)
		}
		for _, blob := range []ocispec.Descriptor{b.manifest, configOf(t, d, b), b.layers[0]} {
			if _, err := content.ReadAll(d, blob, 1<<20); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	damage := func(dg digest.Digest, how func([]byte) []byte) {
		t.Helper()
		path := content.Path(d, dg)
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, how(data), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	noLayers := func() {
		t.Helper()
		if err := os.RemoveAll(d.Path("snapshots", "overlayfs")); err != nil {
			t.Fatal(err)
		}
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }
	pull("first")
	config := configOf(t, d, b)
	for _, blob := range []ocispec.Descriptor{b.manifest, config} {
		damage(blob.Digest, flipped)
		pull(blob.MediaType + " changed")
		damage(blob.Digest, half)
		pull(blob.MediaType + " shortened")
	}
	s.set(nil)
	noLayers()
	pull("no layers")
	if gets, _ := s.count(b.layers[0].Digest); gets != 0 {
		t.Error("a blob that is there was fetched again")
	}
	os.RemoveAll(snapshot.Overlay.FS(d, snapshot.LayerID(image.ChainIDs(b.diffIDs)[0])))
	pull("half a layer")
	for what, how := range map[string]func([]byte) []byte{"changed": flipped, "shortened": half} {
		noLayers()
		damage(b.layers[0].Digest, how)
		pull("no layers, blob " + what)
	}
	err := d.Update(ctx, nil, func(tx *state.Tx) error {
		for _, dg := range []digest.Digest{b.manifest.Digest, config.Digest, b.layers[0].Digest} {
			if err := (state.Table[string]{Name: "content"}).Put(tx, "ns", dg.String(), "damaged"); err != nil {
				return err
			}
		}
		return state.Table[string]{Name: "images"}.Put(tx, "ns", b.ref, "damaged")
	})
	if err != nil {
		t.Fatal(err)
	}
	pull("damaged records")
	chain := image.ChainIDs(b.diffIDs)[0].String()
	for what, put := range map[string]func(tx *state.Tx) error{
		"damaged": func(tx *state.Tx) error {
			return state.Table[string]{Name: "snapshots/overlayfs"}.Put(tx, "ns", chain, "damaged")
		},
		"elsewhere": func(tx *state.Tx) error {
			return state.Table[snapshot.Info]{Name: "snapshots/overlayfs"}.Put(tx, "ns", chain, snapshot.Info{ID: "gone", Kind: snapshot.Committed})
		},
	} {
		if err := d.Update(ctx, nil, put); err != nil {
			t.Fatal(err)
		}
		pull("layer's record " + what)
		err := d.View(ctx, func(tx *state.Tx) error {
			dirs, err := snapshot.Overlay.Layers(ctx, tx, d, "ns", chain)
			if err == nil {
				_, err = os.Stat(dirs[0] + "/a")
			}
			return err
		})
		if err != nil {
			t.Errorf("layer's record %s: %v", what, err)
		}
	}
	err = d.View(ctx, func(tx *state.Tx) error {
		if _, err := content.Get(tx, "ns", b.layers[0].Digest); err != nil {
			return err
		}
		_, err := image.Get(tx, "ns", b.ref)
		return err
	})
	if err != nil {
		t.Errorf("the records are not healed: %v", err)
	}
}

// That a directory is there proves nothing about another blob that is said to unpack to it.
func TestUnprovenBlob(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	good := files("a", "1")
	b := s.build("test/app", "1", good)
	if _, err := pullText(ctx, d, b.ref, options()); err != nil {
		t.Fatal(err)
	}
	liar := built{ref: s.host + "/test/liar:1", diffIDs: b.diffIDs}
	liar.layers = []ocispec.Descriptor{s.blob("test/liar", ocispec.MediaTypeImageLayerGzip, zipped(files("a", "2")))}
	liar = s.push(liar, "test/liar", "1")
	for _, what := range []string{"fetched", "there already"} {
		if _, err := pullText(ctx, d, liar.ref, options()); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "diff id") {
			t.Errorf("%s: %v", what, err)
		}
		opt := options()
		opt.NoUnpack = true
		if _, err := pullText(ctx, d, liar.ref, opt); err != nil {
			t.Fatal(err)
		}
	}
	other := built{ref: s.host + "/test/other:1", diffIDs: b.diffIDs}
	other.layers = []ocispec.Descriptor{s.blob("test/other", ocispec.MediaTypeImageLayer, good)}
	other = s.push(other, "test/other", "1")
	if _, err := pullText(ctx, d, other.ref, options()); err != nil {
		t.Errorf("the same layer, compressed otherwise: %v", err)
	}
	err := d.View(ctx, func(tx *state.Tx) error {
		for blob, want := range map[digest.Digest]string{liar.layers[0].Digest: "", other.layers[0].Digest: b.diffIDs[0].String()} {
			got, err := content.Get(tx, "ns", blob)
			if err != nil || got.Labels[labelUncompressed] != want {
				t.Errorf("label %q, want %q; %v", got.Labels[labelUncompressed], want, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Layers whose chain ids begin alike, as they can be made to, have directories of their own.
func TestLikeChains(t *testing.T) {
	a := "sha256:" + strings.Repeat("a", 63)
	if snapshot.LayerID(digest.Digest(a+"a")) == snapshot.LayerID(digest.Digest(a+"b")) {
		t.Error("one directory")
	}
}

// A layer whose directory has the name that older programs gave is taken by every namespace.
func TestOldDirectory(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := s.build("test/app", "1", files("a", "1"), files("b", "2"))
	if _, err := pullText(ctx, d, b.ref, options()); err != nil {
		t.Fatal(err)
	}
	records := state.Table[snapshot.Info]{Name: "snapshots/overlayfs"}
	chain := image.ChainIDs(b.diffIDs)[1]
	id, old := snapshot.LayerID(chain), snapshot.LayerIDs(chain)[1]
	if err := os.Rename(snapshot.Overlay.Path(d, id), snapshot.Overlay.Path(d, old)); err != nil {
		t.Fatal(err)
	}
	err := d.Update(ctx, nil, func(tx *state.Tx) error {
		r, err := snapshot.Overlay.Get(tx, "ns", chain.String())
		r.ID = old
		return errors.Join(err, records.Put(tx, "ns", r.Key, r))
	})
	if err != nil {
		t.Fatal(err)
	}
	o := options()
	for _, o.Namespace = range []string{"ns", "other"} {
		if _, err := pullText(ctx, d, b.ref, o); err != nil {
			t.Fatal(err)
		}
		d.View(ctx, func(tx *state.Tx) error {
			if r, err := snapshot.Overlay.Get(tx, o.Namespace, chain.String()); err != nil || r.ID != old {
				t.Errorf("%+v %v", r, err)
			}
			return nil
		})
	}
	if _, err := os.Stat(snapshot.Overlay.Path(d, id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was unpacked again: %v", err)
	}
}

// impatient opens a state directory whose locks are not waited for.
func impatient(t *testing.T, base string) *state.Dir {
	t.Helper()
	d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "state")})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// An image that has a blob several times does not wait for itself.
func TestSameBlobTwice(t *testing.T) {
	base := t.TempDir()
	openDir(t, base)
	s := newServer(t)
	same := files("a", "1")
	b := s.build("test/twice", "1", same, files("b", "2"), same, same)
	s.set(func(w http.ResponseWriter, r *http.Request) bool { return false })
	if _, err := pullText(ctx, impatient(t, base), b.ref, options()); err != nil {
		t.Fatal(err)
	}
	if gets, _ := s.count(b.layers[0].Digest); gets != 1 {
		t.Errorf("it was fetched %d times", gets)
	}
}
