// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
)

// imageFiles begins the source of a mount that is the files of an image.
const imageFiles = "image:"

// ImageSource is the source of a mount that is the files of an image, or what is at a path in it: those of a committed snapshot.
// At each start it is replaced by where they are. The mount is read-only.
func ImageSource(sn *snapshot.Snapshotter, key, path string) string {
	return imageFiles + sn.Name() + "/" + key + "/" + strings.TrimPrefix(path, "/")
}

// joinImages replaces the sources of mounts that are files of images.
func (t *Task) joinImages(ctx context.Context, tx *state.Tx, s *specs.Spec) error {
	for i, m := range s.Mounts {
		text, ok := strings.CutPrefix(m.Source, imageFiles)
		if !ok {
			continue
		}
		driver, rest, _ := strings.Cut(text, "/")
		key, path, _ := strings.Cut(rest, "/")
		sn, err := snapshot.Named(driver)
		var dirs []string
		if err == nil {
			dirs, err = sn.Layers(ctx, tx, t.d, t.Namespace, key)
		}
		if err == nil {
			s.Mounts[i], err = imageMount(m, dirs, path)
		}
		if err != nil {
			return fmt.Errorf("mount of an image at %s: %w", m.Destination, err)
		}
	}
	return nil
}

// imageMount is the mount of what is at a path in layers, the top one first: a bind mount where it is one file or is in one
// layer, else an overlay.
func imageMount(m specs.Mount, layers []string, path string) (specs.Mount, error) {
	dirs, err := spec.LayerFS(layers).Dirs(path)
	if errdefs.IsInvalidArgument(err) {
		file, e := spec.LayerFS(layers).File(path)
		if e == nil {
			m.Source, m.Options = file, append([]string{"bind", "ro", "rprivate"}, m.Options...)
		}
		return m, e
	}
	switch {
	case err != nil:
		return m, err
	case len(dirs) == 0:
		return m, &os.PathError{Op: "open in image", Path: path, Err: os.ErrNotExist}
	case len(dirs) == 1:
		m.Source, m.Options = dirs[0], append([]string{"bind", "ro", "rprivate"}, m.Options...)
	default:
		m.Type, m.Source, m.Options = "overlay", "overlay", append([]string{"ro", "lowerdir=" + strings.Join(dirs, ":")}, m.Options...)
	}
	return m, nil
}

// CheckImagePath refuses a path that an image with these layers does not have.
func CheckImagePath(layers []string, path string) error {
	_, err := imageMount(specs.Mount{}, layers, path)
	return err
}
