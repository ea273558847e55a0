// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// Overlayfs is the name of the default driver, as containerd has it.
const Overlayfs = "overlayfs"

// overlay keeps each layer in a directory of its own, which overlayfs stacks.
type overlay struct{}

func (overlay) Name() string { return Overlayfs }

func (overlay) Ready(*state.Dir) error { return nil }

// Late is true: a layer is a directory that says nothing of those below.
func (overlay) Late() bool { return true }

func (o overlay) Stage(_ context.Context, d *state.Dir, id, _ ID) error { return stageUpper(o, d, id) }

// stageUpper makes the directories of an overlay that is written to.
func stageUpper(o Driver, d *state.Dir, id ID) error {
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{pathOf(o, d, id), 0o700}, {fsOf(o, d, id), 0o755}, {pathOf(o, d, id, "work"), 0o711}} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		crash.Point("snapshot.stage")
	}
	return nil
}

func (o overlay) Drop(d *state.Dir, id ID) error { return d.Trash(pathOf(o, d, id)) }

func (overlay) Fix(_ context.Context, _ *state.Dir, from, _ ID) (Fixed, error) {
	return Fixed{ID: from}, nil
}

// Maps is true: where the kernel cannot map the layers, lib/mount copies them.
func (overlay) Maps(*state.Dir) bool { return true }

// Adopt gives the root of the upper directory the owner and the mode of the one that it is put on, because in an
// overlay the upper directory's own are seen.
func (o overlay) Adopt(d *state.Dir, s Info, parent ID) error {
	if parent != "" {
		if err := inherit(fsOf(o, d, s.ID), fsOf(o, d, parent)); err != nil {
			return err
		}
	}
	return shift(fsOf(o, d, s.ID), s.Labels)
}

func (o overlay) Open(_ context.Context, d *state.Dir, chain []Info) (*Trees, error) {
	dirs := make([]string, len(chain))
	for i, s := range chain {
		dirs[i] = fsOf(o, d, s.ID)
	}
	return &Trees{Dirs: dirs}, nil
}

func (o overlay) Check(d *state.Dir, s Info) error { return checkTree(fsOf(o, d, s.ID)) }

// Mounts has the forms that containerd's overlay snapshotter gives. With own, a view of one layer is an overlay, too: a
// bind mount of its parent would not tell whose it is.
func (o overlay) Mounts(_ context.Context, d *state.Dir, chain []Info, own bool) ([]mount.Mount, error) {
	s, below := chain[0], chain[1:]
	tree := fsOf(o, d, s.ID)
	var m []mount.Mount
	switch {
	case len(below) == 0 && s.Kind == View:
		return bind(tree, "ro"), nil
	case len(below) == 0:
		return bind(tree, "rw"), nil
	case len(below) == 1 && s.Kind == View && !own:
		return bind(fsOf(o, d, below[0].ID), "ro"), nil
	case len(below) == 1 && s.Kind == View:
		m = overlayOf(fsOf(o, d, below[0].ID), tree)
	default:
		m = o.stack(d, s, below)
	}
	if own {
		m[0].Source = tree
	}
	return m, nil
}

// stack is an overlay of layers.
func (o overlay) stack(d *state.Dir, s Info, below []Info) []mount.Mount {
	var upper []string
	if s.Kind == Active {
		upper = []string{"workdir=" + mount.Escape(pathOf(o, d, s.ID, "work")), "upperdir=" + mount.Escape(fsOf(o, d, s.ID))}
	}
	lower := make([]string, len(below))
	length := len(strings.Join(upper, ","))
	for i, l := range below {
		lower[i] = fsOf(o, d, l.ID)
		length += len(lower[i]) + 1
	}
	if length > maxOptions {
		lower = shorten(d, lower)
	}
	m := overlayOf(lower...)
	m[0].Options = append(upper, m[0].Options...)
	mapOwners(&m[0], s.Labels)
	return m
}

// maxOptions is how long the directories of an overlay may be, in bytes, before short names stand for them. It leaves
// room for other options in the 4 KiB that mount(2) takes at the least.
const maxOptions = 3500

// shorten gives the short names of trees. Where there can be none, on a read-only file system for example, the trees
// keep theirs: lib/mount has other ways for many layers.
func shorten(d *state.Dir, trees []string) []string {
	short := make([]string, len(trees))
	for i, tree := range trees {
		var err error
		if short[i], err = alias(d, tree); err != nil {
			return trees
		}
	}
	return short
}

// overlayOf is an overlay of lower directories, the top first.
func overlayOf(lower ...string) []mount.Mount {
	for i, dir := range lower {
		lower[i] = mount.Escape(dir)
	}
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append([]string{"lowerdir=" + strings.Join(lower, ":")}, mount.Plain()...)}}
}

func (o overlay) Usage(ctx context.Context, d *state.Dir, id ID) (size, inodes int64, err error) {
	return layer.Usage(ctx, fsOf(o, d, id))
}

func (o overlay) Sync(d *state.Dir, id ID, fresh bool) error {
	if !fresh {
		return syncFS(fsOf(o, d, id))
	}
	return syncNames(o, d, id, fsOf(o, d, id))
}

// inherit gives the root of a tree the owner and the mode of another one. One that is not there is left to whoever
// mounts it.
func inherit(root, parent string) error {
	st, err := os.Stat(parent)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("root of parent: %w", err)
	}
	owner := st.Sys().(*syscall.Stat_t)
	if err := os.Lchown(root, int(owner.Uid), int(owner.Gid)); err != nil {
		return fmt.Errorf("root of snapshot: %w", err)
	}
	if err := os.Chmod(root, st.Mode()); err != nil {
		return fmt.Errorf("root of snapshot: %w", err)
	}
	return nil
}
