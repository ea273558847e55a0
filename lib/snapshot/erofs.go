// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/erofs"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/verity"
)

// images keeps each committed layer in one file, an image of erofs, which the kernel mounts and overlayfs stacks. An
// active snapshot is a directory, as with overlayfs. An image has fs-verity where the file system has that, and is used
// only as long as it is the one that was recorded.
type images struct{}

func (images) Name() string { return "erofs" }

// imageFile is the image of a committed snapshot, named as by containerd's snapshotter.
const imageFile = "layer.erofs"

// Ready asks the kernel, which loads the file system for that.
func (images) Ready(*state.Dir) error {
	fd, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.ENODEV):
		return &NoErofsError{}
	}
	return nil // it does not tell: what is wrong is told by a mount
}

// NoErofsError says that the kernel cannot mount erofs. Its kind is errdefs.ErrFailedPrecondition.
type NoErofsError struct{}

// Error says so.
func (*NoErofsError) Error() string {
	return "the snapshotter erofs needs a kernel with erofs, and this one has none"
}

// Unwrap gives the kind.
func (*NoErofsError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// Hint names the next step.
func (*NoErofsError) Hint() string {
	return "modprobe erofs, a kernel with CONFIG_EROFS_FS, or --snapshotter overlayfs"
}

// Late is true: a layer says nothing of those below.
func (images) Late() bool { return true }

func (v images) image(d *state.Dir, id ID) string { return pathOf(v, d, id, imageFile) }

func (v images) Stage(_ context.Context, d *state.Dir, id, _ ID) error {
	if err := v.Ready(d); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return stageUpper(v, d, id)
}

// Remakes marks a [Remaker].
func (images) Remakes() {}

// Fix makes the image under another name first: what has its name is whole, and protected. In place, the directory goes
// then.
func (v images) Fix(ctx context.Context, d *state.Dir, from, to ID) (f Fixed, err error) {
	f.ID = to
	path := v.image(d, to)
	if f.Verity, err = v.known(d, to); err == nil {
		return f, v.clear(d, from, to)
	} else if !errors.Is(err, os.ErrNotExist) {
		return f, fmt.Errorf("snapshot: %w", err)
	}
	if err := os.MkdirAll(pathOf(v, d, to), 0o700); err != nil {
		return f, fmt.Errorf("snapshot: %w", err)
	}
	// What a kill has left may be protected, and so not to be written.
	if err := os.Remove(path + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return f, fmt.Errorf("snapshot: %w", err)
	}
	w, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return f, fmt.Errorf("snapshot: %w", err)
	}
	_, err = erofs.Write(ctx, w, fsOf(v, d, from), ofUpper)
	if err = errors.Join(err, w.Close()); err == nil {
		crash.Point("snapshot.image-written")
		f.Verity, err = verity.Protect(ctx, path+".new")
	}
	if err != nil {
		return f, fmt.Errorf("snapshot: %w", state.NoRoom(err, path))
	}
	crash.Point("snapshot.image")
	if err := os.Rename(path+".new", path); err != nil {
		return f, fmt.Errorf("snapshot: %w", err)
	}
	crash.Point("snapshot.image-named")
	if err := v.clear(d, from, to); err != nil {
		return f, err
	}
	f.Size, f.Inodes, err = v.Usage(ctx, d, to)
	return f, err
}

// clear throws away what an image was made of, in place.
func (v images) clear(d *state.Dir, from, to ID) error {
	if from != to {
		return nil
	}
	return errors.Join(d.Trash(fsOf(v, d, to)), d.Trash(pathOf(v, d, to, "work")))
}

// ofUpper accepts what overlayfs notes in an upper directory, and has no meaning in a lower one.
func ofUpper(xattr string) bool {
	for _, class := range []string{"trusted.overlay.", "user.overlay."} {
		if name, ok := strings.CutPrefix(xattr, class); ok {
			return name == "origin" || name == "impure" || name == "nlink" || name == "uuid"
		}
	}
	return layer.HostXattr(xattr)
}

// Maps asks the file system of the root; the kernel maps the owners of erofs since the version that stacks mapped layers.
func (images) Maps(d *state.Dir) bool { return mapsTree(d) }

func (v images) Adopt(d *state.Dir, s Info, parent ID) error {
	tree := fsOf(v, d, s.ID)
	if parent != "" {
		i, err := erofs.Look(v.image(d, parent))
		if err != nil {
			return err
		}
		if err := errors.Join(os.Lchown(tree, int(i.UID), int(i.GID)), unix.Chmod(tree, uint32(i.Mode)&0o7777)); err != nil {
			return fmt.Errorf("root of snapshot: %w", err)
		}
	}
	return shift(tree, s.Labels)
}

// Mounts has the forms that containerd's snapshotter gives, with an upper directory: the images, then an overlay that names
// them. With own, a view of one layer is an overlay, too.
func (v images) Mounts(ctx context.Context, d *state.Dir, chain []Info, own bool) ([]mount.Mount, error) {
	s, below := chain[0], chain[1:]
	tree := fsOf(v, d, s.ID)
	if len(below) == 0 {
		mode := "rw"
		if s.Kind == View {
			mode = "ro"
		}
		return bind(tree, mode), nil
	}
	m, err := v.lower(ctx, d, below)
	if err != nil {
		return nil, err
	}
	if len(below) == 1 && s.Kind == View && !own {
		return m, nil
	}
	top := mount.Mount{Type: "format/overlay", Source: "overlay"}
	lower := "{{ mount 0 }}"
	if len(below) > 1 {
		lower = fmt.Sprintf("{{ overlay 0 %d }}", len(below)-1)
	}
	switch {
	case s.Kind == Active:
		top.Options = []string{"workdir=" + mount.Escape(pathOf(v, d, s.ID, "work")), "upperdir=" + mount.Escape(tree)}
	case len(below) == 1:
		lower += ":" + mount.Escape(tree) // an overlay without an upper directory has two lower ones
	}
	top.Options = append(append(top.Options, "lowerdir="+lower), mount.Plain()...)
	mapOwners(&top, s.Labels)
	if own {
		top.Source = tree
	}
	return append(m, top), nil
}

// lower are the mounts of the images of committed snapshots, if they are those that were recorded.
func (v images) lower(ctx context.Context, d *state.Dir, chain []Info) (m []mount.Mount, err error) {
	for _, s := range chain {
		if err := v.attest(ctx, d, s); err != nil {
			return nil, fmt.Errorf("snapshot %q: %w", s.Key, err)
		}
		m = append(m, mount.Mount{Type: "erofs", Source: v.image(d, s.ID), Options: []string{"ro", "loop"}})
	}
	return m, nil
}

// Open mounts the images where nobody sees them.
func (v images) Open(ctx context.Context, d *state.Dir, chain []Info) (*Trees, error) {
	t := &Trees{}
	if chain[0].Kind != Committed {
		t.Dirs, chain = append(t.Dirs, fsOf(v, d, chain[0].ID)), chain[1:]
	}
	lower, err := v.lower(ctx, d, chain)
	if err != nil {
		return nil, err
	}
	files, err := mount.Detached(lower...)
	if err != nil {
		return nil, err
	}
	t.files = files
	for _, f := range files {
		t.Dirs = append(t.Dirs, mount.Directory(f))
	}
	return t, nil
}

func (v images) Check(d *state.Dir, s Info) error {
	_, err := erofs.Look(v.image(d, s.ID))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return checkTree(fsOf(v, d, s.ID))
	case err != nil:
		return err
	}
	return v.isRecorded(d, s)
}

func (v images) Usage(ctx context.Context, d *state.Dir, id ID) (size, inodes int64, err error) {
	path := v.image(d, id)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, os.ErrNotExist) {
		return layer.Usage(ctx, fsOf(v, d, id))
	} else if err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	i, err := erofs.Look(path)
	return st.Blocks * 512, i.Inodes, err
}

func (v images) Sync(d *state.Dir, id ID, fresh bool) error {
	if !fresh {
		return syncFS(pathOf(v, d, id))
	}
	return syncNames(v, d, id, fsOf(v, d, id))
}

func (v images) Drop(d *state.Dir, id ID) error { return d.Trash(pathOf(v, d, id)) }
