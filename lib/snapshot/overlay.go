// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// ErrCommitted says that a snapshot is committed and so cannot be mounted; its kind is
// errdefs.ErrFailedPrecondition.
var ErrCommitted = fmt.Errorf("it is committed; prepare or view one on top of it: %w", errdefs.ErrFailedPrecondition)

// Overlayfs is the name of the driver.
const Overlayfs = "overlayfs"

// ID names the directory of a snapshot: 16 hexadecimal digits at random, or of an image's layer its whole chain id, so
// that no two layers share one. A root may have directories of layers with only 16 digits of it, which older programs
// made: a record says which.
type ID string

// NewID makes a random id.
func NewID() ID {
	b := make([]byte, 8)
	rand.Read(b)
	return ID(hex.EncodeToString(b))
}

// LayerID is the id of an image's layer, which is the same in every namespace.
func LayerID(chain digest.Digest) ID {
	if chain.Algorithm() == digest.SHA256 {
		return ID(chain.Encoded())
	}
	return ID(chain.Algorithm().String() + "-" + chain.Encoded())
}

// LayerIDs are the ids that the directory of a layer may have: the one that is made, and that of older programs.
func LayerIDs(chain digest.Digest) []ID { return []ID{LayerID(chain), ID(chain.Encoded()[:16])} }

// Path joins names below the directory of a snapshot.
func Path(d *state.Dir, id ID, elem ...string) string {
	return d.Path(append([]string{"snapshots", Overlayfs, string(id)}, elem...)...)
}

// FS is the tree of a snapshot.
func FS(d *state.Dir, id ID) string { return Path(d, id, "fs") }

// Stage makes the directory of a new snapshot. Until a record names it, it is garbage; the caller has a
// lease on the id.
func Stage(d *state.Dir, id ID) error {
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{Path(d, id), 0o700}, {FS(d, id), 0o755}, {Path(d, id, "work"), 0o711}} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		crash.Point("snapshot.stage")
	}
	return nil
}

// Drop moves the directory of a snapshot that no record names into the trash.
func Drop(d *state.Dir, id ID) error { return d.Trash(Path(d, id)) }

// Dirs yields the ids of all directories, recorded or not.
func Dirs(d *state.Dir) iter.Seq2[ID, error] {
	return func(yield func(ID, error) bool) {
		entries, err := os.ReadDir(d.Path("snapshots", Overlayfs))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			yield("", err)
			return
		}
		for _, e := range entries {
			if !yield(ID(e.Name()), nil) {
				return
			}
		}
	}
}

// Layers gives the trees of a snapshot and of all that it stands on, the top first.
func Layers(tx *state.Tx, d *state.Dir, ns, key string) ([]string, error) {
	chain, err := Chain(tx, ns, key)
	dirs := make([]string, len(chain))
	for i, s := range chain {
		dirs[i] = FS(d, s.ID)
	}
	return dirs, err
}

// Mounts describes how to mount a snapshot, in the form that containerd's overlay snapshotter has. A
// committed snapshot is not mounted: ErrCommitted.
func Mounts(tx *state.Tx, d *state.Dir, ns, key string) ([]mount.Mount, error) {
	chain, err := Chain(tx, ns, key)
	if err != nil {
		return nil, err
	}
	s, below := chain[0], chain[1:]
	if s.Kind == Committed {
		return nil, fmt.Errorf("mounts of snapshot %q: %w", key, ErrCommitted)
	}
	bind := func(id ID, mode string) []mount.Mount {
		return []mount.Mount{{Type: "bind", Source: FS(d, id), Options: []string{mode, "rbind"}}}
	}
	switch {
	case len(below) == 0 && s.Kind == View:
		return bind(s.ID, "ro"), nil
	case len(below) == 0:
		return bind(s.ID, "rw"), nil
	case len(below) == 1 && s.Kind == View:
		return bind(below[0].ID, "ro"), nil
	}
	var upper []string
	if s.Kind == Active {
		upper = []string{"workdir=" + mount.Escape(Path(d, s.ID, "work")), "upperdir=" + mount.Escape(FS(d, s.ID))}
	}
	lower := make([]string, len(below))
	length := len(strings.Join(upper, ","))
	for i, l := range below {
		lower[i] = FS(d, l.ID)
		length += len(lower[i]) + 1
	}
	if length > maxOptions {
		lower = shorten(d, lower)
	}
	m := overlayOf(lower...)
	m[0].Options = append(upper, m[0].Options...)
	mapLayers(&m[0], s.Labels)
	return m, nil
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
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(lower, ":"), "index=off"}}}
}

// Usage measures what a snapshot occupies on the disk by itself, without what it stands on: bytes of
// blocks and inodes, each once however many names it has.
func Usage(ctx context.Context, d *state.Dir, id ID) (size, inodes int64, err error) {
	return layer.Usage(ctx, FS(d, id))
}

// SyncNames makes the empty directory of a new snapshot durable.
func SyncNames(d *state.Dir, id ID) error {
	dir := Path(d, id)
	for _, path := range []string{dir, filepath.Dir(dir)} {
		if err := state.SyncDir(path); err != nil {
			return fmt.Errorf("sync snapshot %s: %w", id, err)
		}
	}
	return nil
}

// Sync makes the directory of a snapshot durable, with all that is in it.
func Sync(d *state.Dir, id ID) error {
	f, err := os.Open(FS(d, id))
	if err != nil {
		return fmt.Errorf("sync snapshot: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync snapshot %s: %w", id, err)
	}
	return nil
}

// inherit gives the root of a new tree the owner and the mode of the tree that it is put on, because in
// an overlay the upper directory's own are seen. A tree that is not there is left to whoever mounts it.
func inherit(d *state.Dir, id, parent ID) error {
	st, err := os.Stat(FS(d, parent))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("root of parent: %w", err)
	}
	root := FS(d, id)
	owner := st.Sys().(*syscall.Stat_t)
	if err := os.Lchown(root, int(owner.Uid), int(owner.Gid)); err != nil {
		return fmt.Errorf("root of snapshot: %w", err)
	}
	if err := os.Chmod(root, st.Mode()); err != nil {
		return fmt.Errorf("root of snapshot: %w", err)
	}
	return nil
}
