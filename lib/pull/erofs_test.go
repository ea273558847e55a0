// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

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
	trees, err := sn.Open(d, all)
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
