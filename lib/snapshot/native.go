// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"fmt"
	"os"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// native keeps whole trees: one that stands on another begins as a copy, which shares data where the file system can.
// It needs nothing of the kernel, so it works where no overlay can be mounted.
type native struct{}

func (native) Name() string { return "native" }

func (native) Ready(*state.Dir) error { return nil }

// Late is false: a copy is made of what is there.
func (native) Late() bool { return false }

func (n native) Stage(ctx context.Context, d *state.Dir, id, parent ID) error {
	if err := os.MkdirAll(pathOf(n, d, id), 0o700); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	tree := fsOf(n, d, id)
	if err := os.Mkdir(tree, 0o755); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	crash.Point("snapshot.stage")
	if parent == "" {
		return nil
	}
	if err := layer.Copy(ctx, fsOf(n, d, parent), tree); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

func (native) Fix(_ context.Context, _ *state.Dir, from, _ ID) (Fixed, error) {
	return Fixed{ID: from}, nil
}

func (n native) Maps(d *state.Dir) bool { return mapsTree(d) }

func (n native) Adopt(d *state.Dir, s Info, _ ID) error { return adoptTree(d, fsOf(n, d, s.ID), s) }

func (n native) Mounts(_ context.Context, d *state.Dir, chain []Info, _ bool) ([]mount.Mount, error) {
	return bindTree(fsOf(n, d, chain[0].ID), chain[0]), nil
}

func (n native) Open(_ context.Context, d *state.Dir, chain []Info) (*Trees, error) {
	return &Trees{Dirs: []string{fsOf(n, d, chain[0].ID)}}, nil
}

func (n native) Check(d *state.Dir, s Info) error { return checkTree(fsOf(n, d, s.ID)) }

func (n native) Usage(ctx context.Context, d *state.Dir, id ID) (size, inodes int64, err error) {
	return layer.Usage(ctx, fsOf(n, d, id))
}

// Sync of a fresh tree is of all of it: it may be a copy.
func (n native) Sync(d *state.Dir, id ID, _ bool) error { return syncFS(fsOf(n, d, id)) }

func (n native) Drop(d *state.Dir, id ID) error { return d.Trash(pathOf(n, d, id)) }
