// SPDX-License-Identifier: Apache-2.0

package task

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
)

// volumesPath is where the anonymous volumes of a container are: the directory of each has its number as its name.
func volumesPath(d *state.Dir, ns string, c container.Container) string {
	return d.Path("containers", ns, c.Files(), "volumes")
}

// readSpec reads the container's OCI spec, with its volumes where they are. A container of a client of the API has none: a
// source of its spec is what the client says.
func (t *Task) readSpec(tx *state.Tx) (*specs.Spec, error) {
	s, err := container.Spec(tx, t.Namespace, t.ID())
	if err != nil {
		return nil, err
	}
	dir := volumesPath(t.d, t.Namespace, t.Container)
	if _, err := os.Lstat(dir); err == nil {
		spec.SetVolumes(s, dir)
	}
	return s, nil
}

// Volumes gives the places of the container's anonymous volumes, in the order of their numbers.
func (t *Task) Volumes(ctx context.Context) (all []string, err error) {
	if _, err := os.Lstat(volumesPath(t.d, t.Namespace, t.Container)); err != nil {
		return nil, nil
	}
	err = t.d.View(ctx, func(tx *state.Tx) error {
		s, err := container.Spec(tx, t.Namespace, t.ID())
		if err == nil {
			all = spec.Volumes(s)
		}
		return err
	})
	return all, err
}

// volumePath is the directory of the anonymous volume number n.
func (t *Task) volumePath(n int) string {
	return filepath.Join(volumesPath(t.d, t.Namespace, t.Container), strconv.Itoa(n))
}

// WriteVolume writes the files of the anonymous volume number n as a layer. Nobody may write to them meanwhile, see [Task.Still].
func (t *Task) WriteVolume(ctx context.Context, w io.Writer, n int, o diff.Options) error {
	_, err := diff.Write(ctx, w, nil, diff.Tree{t.volumePath(n)}, o)
	return err
}

// FillVolume unpacks such a layer of a media type into the anonymous volume number n, which [Saved].Volumes has had made empty, of a
// container that has not run. After an error the volume may have a part of it.
func (t *Task) FillVolume(ctx context.Context, r io.Reader, n int, mediaType string) error {
	_, err := layer.Apply(ctx, r, t.volumePath(n), layer.Options{MediaType: mediaType})
	return err
}

// makeVolumes makes the anonymous volumes of a container that has no record yet, each with what the image has at its
// place, but those of empty. It gives the container its uid, which the lease holds the files under until there is a record.
func makeVolumes(ctx context.Context, d *state.Dir, ns string, c *container.Container, volumes []string, empty map[string]bool, src source, le *lease.Lease) (err error) {
	if len(volumes) == 0 {
		return nil
	}
	c.UID = rand.Text()
	if err := le.Hold(ctx, nil, lease.Files, ns+"/"+c.Files()); err != nil {
		return err
	}
	dir := volumesPath(d, ns, *c)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Trash(filepath.Dir(dir)))
		}
	}()
	filled := false
	for i, at := range volumes {
		layers := src.layers.Dirs
		if empty[at] {
			layers = nil
		}
		one, err := makeVolume(ctx, filepath.Join(dir, strconv.Itoa(i)), at, layers, c.UserNS)
		if err != nil {
			return fmt.Errorf("volume at %s: %w", at, err)
		}
		filled = filled || one
	}
	crash.Point("task.volumes")
	if c.Transient {
		return nil
	}
	return syncVolumes(d, dir, len(volumes), filled)
}

// makeVolume makes the directory dir of what the layers have at a path, and tells whether that was anything. The
// owners are those of the container on the host.
func makeVolume(ctx context.Context, dir, at string, layers []string, ids spec.UserNS) (filled bool, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return false, err
	}
	st := unix.Stat_t{Mode: 0o755}
	from, err := spec.LayerFS(layers).Dirs(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	default:
		if err := unix.Lstat(from[0], &st); err != nil {
			return false, &fs.PathError{Op: "stat", Path: from[0], Err: err}
		}
		if filled, err = copyTree(ctx, dir, from, ids); err != nil {
			return false, err
		}
	}
	uid, gid := hostOwner(ids, int(st.Uid), int(st.Gid))
	if err := os.Lchown(dir, uid, gid); err != nil {
		return false, err
	}
	return filled, os.Chmod(dir, fs.FileMode(st.Mode&0o777)|sticky(st.Mode))
}

// sticky gives the bits of a mode beyond the permissions.
func sticky(mode uint32) (m fs.FileMode) {
	for bit, is := range map[uint32]fs.FileMode{unix.S_ISVTX: fs.ModeSticky, unix.S_ISGID: fs.ModeSetgid, unix.S_ISUID: fs.ModeSetuid} {
		if mode&bit != 0 {
			m |= is
		}
	}
	return m
}

// copyTree copies what directories show as one into dir, as a layer that is made and unpacked at once.
func copyTree(ctx context.Context, dir string, from []string, ids spec.UserNS) (filled bool, err error) {
	written, w := io.Pipe()
	mapped, out := io.Pipe()
	failed := make(chan error, 2)
	go func() {
		// The empty directory below is no layer of the tree: so what from has is compared with nothing.
		_, err := diff.Write(ctx, w, diff.Tree{dir}, diff.Tree(from), diff.Options{})
		failed <- w.CloseWithError(err)
	}()
	go func() {
		var err error
		filled, err = mapOwners(out, written, ids)
		written.CloseWithError(err)
		failed <- out.CloseWithError(err)
	}()
	_, err = layer.Apply(ctx, mapped, dir, layer.Options{})
	mapped.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	<-failed
	<-failed
	return filled, err
}

// mapOwners copies a tar with the owners that those in it are on the host, and tells whether it has any entry but
// that of the root.
func mapOwners(w io.Writer, r io.Reader, ids spec.UserNS) (filled bool, err error) {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return filled, out.Close()
		}
		if err != nil {
			return filled, err
		}
		filled = filled || filepath.Clean(h.Name) != "."
		h.Uid, h.Gid = hostOwner(ids, h.Uid, h.Gid)
		delete(h.PAXRecords, "uid")
		delete(h.PAXRecords, "gid")
		if err := out.WriteHeader(h); err != nil {
			return filled, err
		}
		if _, err := io.Copy(out, in); err != nil {
			return filled, err
		}
	}
}

// hostOwner is what an owner in the container is on the host; one that is not mapped becomes what the kernel shows
// for it.
func hostOwner(ids spec.UserNS, uid, gid int) (int, int) {
	return hostID(ids.UIDs, uid), hostID(ids.GIDs, gid)
}

// overflowID is the kernel's number for an owner that has none.
const overflowID = 65534

func hostID(list []specs.LinuxIDMapping, id int) int {
	if len(list) == 0 {
		return id
	}
	for _, m := range list {
		if at := int64(id) - int64(m.ContainerID); at >= 0 && at < int64(m.Size) {
			return int(int64(m.HostID) + at)
		}
	}
	return overflowID
}

// syncVolumes makes n volumes durable: their files if there are any, and the names that lead to them.
func syncVolumes(d *state.Dir, dir string, n int, filled bool) error {
	if filled {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		return state.SyncFS(f, dir)
	}
	var dirs []string
	for i := range n {
		dirs = append(dirs, filepath.Join(dir, strconv.Itoa(i)))
	}
	for up := dir; len(up) >= len(d.Path()); up = filepath.Dir(up) {
		dirs = append(dirs, up)
	}
	for _, dir := range dirs {
		if err := state.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}
