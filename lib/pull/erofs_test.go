// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/verity"
)

// opened calls fn with the trees of an image's layers.
func opened(t *testing.T, d *state.Dir, sn *snapshot.Snapshotter, chain digest.Digest, fn func(diff.Tree)) {
	t.Helper()
	var all []snapshot.Info
	err := d.View(ctx, func(tx *state.Tx) (err error) {
		all, err = sn.Chain(tx, "ns", chain.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	trees, err := sn.Open(ctx, d, all)
	if err != nil {
		t.Fatal(err)
	}
	fn(trees.Dirs)
	if err := trees.Close(); err != nil {
		t.Error(err)
	}
}

// TestErofs: an image is the same with layers that are files as with layers that are directories: what a layer leaves to those
// below is made good, also when they were pulled before. Several pulls at once do no harm.
func TestErofs(t *testing.T) {
	if err := snapshot.Erofs.Ready(nil); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and erofs: ", err)
	}
	d := openDir(t, t.TempDir())
	s := newServer(t)
	layers := [][]byte{
		directories(t),
		files("tmp/x", "", "srv/app/y", "1", "srv/app/z", "1", "new/z", ""),
		files("srv/app/.wh.z", "", "none/.wh.x", "", "new/.wh..wh..opq", "", "new/a", strings.Repeat("a", 100000)),
		files(".wh..wh..opq", "", "tmp/only", "4"),
		files("tmp/more", "5"),
	}
	base := s.build("test/base", "1", layers[:2]...)
	whole := s.build("test/app", "1", layers...)
	opt := options()
	opt.Snapshotter = snapshot.Erofs
	if _, err := pullText(ctx, d, base.ref, opt); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	errs := make(chan error, 4)
	for range 4 {
		all.Go(func() {
			own, err := state.Open(state.Config{Root: d.Path(), State: d.Run(), Wait: -1})
			if err == nil {
				_, err = pullText(ctx, own, whole.ref, opt)
			}
			errs <- err
		})
	}
	all.Wait()
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	opt.Snapshotter = snapshot.Overlay
	if _, err := pullText(ctx, d, whole.ref, opt); err != nil {
		t.Fatal(err)
	}
	for n, chain := range image.ChainIDs(whole.diffIDs) {
		opened(t, d, snapshot.Overlay, chain, func(want diff.Tree) {
			opened(t, d, snapshot.Erofs, chain, func(got diff.Tree) {
				if n == 1 {
					for path, want := range map[string]string{"tmp": "1777 0:0", "srv/app": "750 1000:1000"} {
						if is := mode(t, got[0]+path); is != want {
							t.Errorf("%s is %s, want %s", path, is, want)
						}
					}
				}
				for _, pair := range [][2]diff.Tree{{want, got}, {got, want}} {
					var b bytes.Buffer
					if _, err := diff.Write(ctx, &b, pair[0], pair[1], diff.Options{Compression: diff.None}); err != nil {
						t.Fatal(err)
					}
					for r := tar.NewReader(&b); ; {
						h, err := r.Next()
						if errors.Is(err, io.EOF) {
							break
						}
						if err != nil || h.Typeflag != tar.TypeDir { // what no layer has an entry for is as old as the pull
							t.Errorf("layer %d: %s differs", n, fmt.Sprint(h.Name, err))
						}
					}
				}
			})
		})
	}
	for id, err := range snapshot.Erofs.Dirs(d) {
		if _, fs := os.Stat(snapshot.Erofs.FS(d, id)); err != nil || fs == nil {
			t.Errorf("%s has its directory still, or %v", id, err)
		}
	}
	d.View(ctx, func(tx *state.Tx) error {
		for s, err := range snapshot.Erofs.All(tx, "ns") {
			if err != nil || s.Size == 0 || s.Size%512 != 0 || s.Inodes == 0 {
				t.Errorf("%+v %v", s, err)
			}
		}
		return nil
	})
}

// TestErofsLost: a layer whose file is not the one that was recorded with fs-verity is made anew, once, and its record with it.
func TestErofsLost(t *testing.T) {
	if err := snapshot.Erofs.Ready(nil); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and erofs: ", err)
	}
	d := openDir(t, t.TempDir())
	img := newServer(t).build("test/app", "1", files("a", "1"), files("b/c", "2"))
	opt := options()
	opt.Snapshotter = snapshot.Erofs
	get := func() (all []snapshot.Info, inodes []uint64) {
		t.Helper()
		if _, err := pullText(ctx, d, img.ref, opt); err != nil {
			t.Fatal(err)
		}
		err := d.View(ctx, func(tx *state.Tx) error {
			for _, chain := range image.ChainIDs(img.diffIDs) {
				s, err := snapshot.Erofs.Get(tx, "ns", chain.String())
				if err != nil {
					return err
				}
				var st unix.Stat_t
				if err := unix.Stat(snapshot.Erofs.Path(d, s.ID, "layer.erofs"), &st); err != nil {
					return err
				}
				all, inodes = append(all, s), append(inodes, st.Ino)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all, inodes
	}
	recorded, were := get()
	lost := recorded[1]
	lost.Verity = digest.FromString("what is recorded")
	lost.Labels = map[string]string{"kept": "yes"}
	err := d.Update(ctx, nil, func(tx *state.Tx) error {
		return state.Table[snapshot.Info]{Name: "snapshots/erofs"}.Put(tx, "ns", lost.Key, lost)
	})
	if err != nil {
		t.Fatal(err)
	}
	again, are := get()
	has, err := verity.Measure(snapshot.Erofs.Path(d, again[1].ID, "layer.erofs"))
	if err != nil || again[1].Verity != has || again[1].Labels["kept"] != "yes" || again[0].Verity != recorded[0].Verity {
		t.Errorf("recorded as %+v, is %q, %v", again, has, err)
	}
	if are[0] != were[0] || has != "" && are[1] == were[1] {
		t.Errorf("files were %v, are %v", were, are)
	}
	if _, stay := get(); !slices.Equal(stay, are) {
		t.Errorf("files were %v, are %v", are, stay)
	}
	if err := snapshot.Erofs.Check(d, again[1]); err != nil {
		t.Error(err)
	}
}

// TestErofsLostElsewhere: a layer that one namespace has made anew is right in all that have it.
func TestErofsLostElsewhere(t *testing.T) {
	if err := snapshot.Erofs.Ready(nil); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and erofs: ", err)
	}
	d := openDir(t, t.TempDir())
	img := newServer(t).build("test/app", "1", files("a", "1"))
	key := image.ChainIDs(img.diffIDs)[0].String()
	opt := options()
	opt.Snapshotter = snapshot.Erofs
	pull := func(ns string) {
		t.Helper()
		opt.Namespace = ns
		if _, err := pullText(ctx, d, img.ref, opt); err != nil {
			t.Fatal(err)
		}
	}
	get := func() (s snapshot.Info) {
		t.Helper()
		err := d.View(ctx, func(tx *state.Tx) (err error) {
			s, err = snapshot.Erofs.Get(tx, "one", key)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	pull("one")
	lost := get()
	lost.Verity, lost.Labels = digest.FromString("what is recorded"), map[string]string{"kept": "yes"}
	err := d.Update(ctx, nil, func(tx *state.Tx) error {
		return state.Table[snapshot.Info]{Name: "snapshots/erofs"}.Put(tx, "one", key, lost)
	})
	if err != nil {
		t.Fatal(err)
	}
	pull("other")
	if s := get(); snapshot.Erofs.Check(d, s) != nil || s.Labels["kept"] != "yes" || !s.Created.Equal(lost.Created) {
		t.Errorf("%+v: %v", s, snapshot.Erofs.Check(d, s))
	}
}

// TestErofsCopied: layers that have lost fs-verity, as in a copy of the root, stay as they are where their contents are right, and
// so do the records of all namespaces.
func TestErofsCopied(t *testing.T) {
	b := copied(t)
	before := b.inode()
	b.opt.Namespace = "other"
	if _, err := pullText(ctx, b.d, b.img.ref, b.opt); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"ns", "other"} {
		if s := b.get(ns); s.Verity != b.right {
			t.Errorf("in %s recorded as %q, not %q", ns, s.Verity, b.right)
		}
	}
	if now := b.inode(); now != before {
		t.Errorf("the file was made anew: inode %d, then %d", before, now)
	}
}

// TestErofsKeptUntil: a layer that is wrong is thrown away when another is there in its place, and not before.
func TestErofsKeptUntil(t *testing.T) {
	b := copied(t)
	wrong := b.get("ns")
	wrong.Verity = digest.FromString("what is recorded")
	b.put(wrong)
	before := b.inode()
	if err := os.Remove(content.Path(b.d, b.img.layers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	b.s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	if _, err := pullText(ctx, b.d, b.img.ref, b.opt); err == nil {
		t.Fatal("pulled without a blob")
	}
	if now := b.inode(); now != before {
		t.Errorf("inode %d, then %d", before, now)
	}
	b.s.set(nil)
	if _, err := pullText(ctx, b.d, b.img.ref, b.opt); err != nil {
		t.Fatal(err)
	}
	if s := b.get("ns"); b.inode() == before || snapshot.Erofs.Check(b.d, s) != nil {
		t.Errorf("%+v: %v", s, snapshot.Erofs.Check(b.d, s))
	}
	for id, err := range snapshot.Erofs.Dirs(b.d) {
		if err != nil || id != wrong.ID {
			t.Errorf("%s is left, %v", id, err)
		}
	}
}

// TestErofsNoDescriptors: what cannot be looked at is not made anew, nor thrown away.
func TestErofsNoDescriptors(t *testing.T) {
	b := copied(t)
	p := &puller{d: b.d, opt: b.opt}
	s := b.get("ns")
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	there, err := p.hasTree(ctx, s.ID, s.Verity)
	if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); e != nil {
		t.Fatal(e)
	}
	if there || !errors.Is(err, unix.EMFILE) {
		t.Errorf("%v, %v", there, err)
	}
	if there, err := p.hasTree(ctx, s.ID, s.Verity); !there || err != nil {
		t.Errorf("%v, %v", there, err)
	}
}

// TestErofsChecked: an image whose layer has lost fs-verity counts as unpacked until its contents are found to be others, or its
// file is gone; then it is incomplete.
func TestErofsChecked(t *testing.T) {
	b := copied(t)
	check := func(what string, whole bool) {
		t.Helper()
		var all []image.Check
		err := b.d.View(ctx, func(tx *state.Tx) error {
			img, err := image.Find(tx, "ns", b.img.ref)
			if err == nil {
				all, err = image.Checks(tx, "ns", img.Target)
			}
			return err
		})
		if err != nil || len(all) != 1 || all[0].Complete != whole || all[0].Unpacked != whole {
			t.Errorf("%s: %+v, %v", what, all, err)
		}
	}
	check("a copy", true)
	s := b.get("ns")
	s.Verity = digest.FromString("what is recorded")
	b.put(s)
	if err := snapshot.Erofs.Attest(ctx, b.d, s); err == nil {
		t.Error("another file is accepted")
	}
	check("another file", false)
	if _, err := pullText(ctx, b.d, b.img.ref, b.opt); err != nil {
		t.Fatal(err)
	}
	check("pulled again", true)
	if err := os.Remove(snapshot.Erofs.Path(b.d, s.ID, "layer.erofs")); err != nil {
		t.Fatal(err)
	}
	check("no file", false)
}

// copiedLayer is a pulled image of one layer, whose file is a copy of the one that was recorded with fs-verity.
type copiedLayer struct {
	*testing.T
	d     *state.Dir
	s     *server
	img   built
	opt   Options
	right digest.Digest
}

func copied(t *testing.T) *copiedLayer {
	t.Helper()
	if err := snapshot.Erofs.Ready(nil); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and erofs: ", err)
	}
	b := &copiedLayer{T: t, d: openDir(t, t.TempDir()), s: newServer(t), opt: options()}
	b.img = b.s.build("test/app", "1", files("a", "1"))
	b.opt.Snapshotter = snapshot.Erofs
	if _, err := pullText(ctx, b.d, b.img.ref, b.opt); err != nil {
		t.Fatal(err)
	}
	s := b.get("ns")
	path := snapshot.Erofs.Path(b.d, s.ID, "layer.erofs")
	data, err := os.ReadFile(path)
	if err == nil {
		b.right, err = verity.Digest(ctx, bytes.NewReader(data))
	}
	if err == nil {
		err = errors.Join(os.Remove(path), os.WriteFile(path, data, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Verity = b.right
	b.put(s)
	return b
}

func (b *copiedLayer) get(ns string) (s snapshot.Info) {
	b.Helper()
	err := b.d.View(ctx, func(tx *state.Tx) (err error) {
		s, err = snapshot.Erofs.Get(tx, ns, image.ChainIDs(b.img.diffIDs)[0].String())
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func (b *copiedLayer) put(s snapshot.Info) {
	b.Helper()
	err := b.d.Update(ctx, nil, func(tx *state.Tx) error {
		return state.Table[snapshot.Info]{Name: "snapshots/erofs"}.Put(tx, "ns", s.Key, s)
	})
	if err != nil {
		b.Fatal(err)
	}
}

func (b *copiedLayer) inode() uint64 {
	b.Helper()
	var st unix.Stat_t
	if err := unix.Stat(snapshot.Erofs.Path(b.d, b.get("ns").ID, "layer.erofs"), &st); err != nil {
		b.Fatal(err)
	}
	return st.Ino
}
