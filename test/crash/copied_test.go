// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"errors"
	"os"
	"testing"

	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/verity"
	"ctrd.dev/ctrd/test/world"
)

// spoiled are scenarios that begin with layers that are not as they were recorded.
func spoiled() []scenario {
	at := exported + ".mnt"
	mounts := "ctr-image mount " + small + " " + at
	return []scenario{
		{
			name: "pull of a layer whose tree is gone", before: []step{pull(small), noTrees}, command: words("ctr-pull -q " + small),
			only: []string{"pull.layer-replaced", "pull.after-layer-rename"}, again: []step{pull(small), do("ctr-task run --rm " + small + " true"), do("ctrd fsck --deep")},
		},
		{
			name: "image mount of a copied layer", before: []step{pull(small), withoutVerity, mountPoint}, command: words(mounts), driver: "erofs",
			only: []string{"snapshot.image-read"}, again: []step{do("ctr-image unmount -f " + at), do(mounts), do("ctr-image unmount " + at), do("ctrd fsck --deep"), do("ctr-image rm " + small)},
			then: [][]string{{"ctr-image", "unmount", "-f", at}},
		},
	}
}

// noTrees removes the trees of all layers, and leaves their directories.
func noTrees(t *testing.T, w *world.World) {
	each(t, w, snapshot.Overlay, func(d *state.Dir, s *snapshot.Info) error { return os.RemoveAll(snapshot.Overlay.FS(d, s.ID)) })
}

// withoutVerity has the records of layers say which fs-verity their files had, as in a copy of a root.
func withoutVerity(t *testing.T, w *world.World) {
	each(t, w, snapshot.Erofs, func(d *state.Dir, s *snapshot.Info) error {
		f, err := os.Open(snapshot.Erofs.Path(d, s.ID, "layer.erofs"))
		if err != nil {
			return err
		}
		defer f.Close()
		s.Verity, err = verity.Digest(t.Context(), f)
		return err
	})
}

// each calls fn with the record of each snapshot, which it may change.
func each(t *testing.T, w *world.World, sn *snapshot.Snapshotter, fn func(*state.Dir, *snapshot.Info) error) {
	d, err := state.Open(state.Config{Root: w.Root, State: w.State, Wait: -1})
	if err == nil {
		err = d.Update(t.Context(), nil, func(tx *state.Tx) (err error) {
			for s, e := range sn.All(tx, "default") {
				if err = errors.Join(err, e); err == nil {
					err = fn(d, &s)
				}
				if err == nil {
					err = state.Table[snapshot.Info]{Name: "snapshots/" + sn.Name()}.Put(tx, "default", s.Key, s)
				}
			}
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}
