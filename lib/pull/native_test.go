// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// TestNative: with a snapshotter whose trees are whole, each layer is put onto a copy of those below; the blobs serve
// both snapshotters.
func TestNative(t *testing.T) {
	d := openDir(t, t.TempDir())
	s := newServer(t)
	b := s.build("test/app", "1", files("a", "1", "d/x", "1", "d/y", "1"), files("a", "2", "d/.wh.x", ""), files("d/.wh..wh..opq", "", "d/z", "3", ".wh.a", ""), files("a", "4"))
	opt := options()
	opt.Snapshotter = snapshot.Native
	if _, err := pullText(ctx, d, b.ref, opt); err != nil {
		t.Fatal(err)
	}
	chains := image.ChainIDs(b.diffIDs)
	for n, want := range [][]string{{"a=1", "d/x=1", "d/y=1"}, {"a=2", "d/y=1"}, {"d/z=3"}, {"a=4", "d/z=3"}} {
		d.View(ctx, func(tx *state.Tx) error {
			layers, err := snapshot.Native.Layers(ctx, tx, d, "ns", chains[n].String())
			if err != nil || len(layers) != 1 {
				t.Fatalf("%v %v", layers, err)
			}
			var got []string
			for _, name := range []string{"a", "d/x", "d/y", "d/z"} {
				if data, err := os.ReadFile(filepath.Join(layers[0], name)); err == nil {
					got = append(got, name+"="+string(data))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("layer %d: %v, want %v", n, got, want)
			}
			return nil
		})
	}
	for _, sn := range []*snapshot.Snapshotter{snapshot.Native, snapshot.Overlay, nil} {
		opt.Snapshotter = sn
		if _, err := pullText(ctx, d, b.ref, opt); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range b.layers {
		if gets, _ := s.count(l.Digest); gets != 1 {
			t.Errorf("%s was fetched %d times", l.Digest, gets)
		}
	}
	d.View(ctx, func(tx *state.Tx) error {
		for _, sn := range []*snapshot.Snapshotter{snapshot.Native, snapshot.Overlay} {
			if s, err := sn.Get(tx, "ns", chains[3].String()); err != nil || s.Size == 0 {
				t.Errorf("%s: %+v %v", sn.Name(), s, err)
			}
		}
		return nil
	})
}
