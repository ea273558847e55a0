// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/mount"
)

// transform is what transformers go by.
type transform struct {
	roots []string // directories in which they may make something
}

// transformers change a mount before it is mounted, or left to the caller; see containerd's docs/mounts.md.
var transformers = map[string]func(context.Context, transform, mount.Mount, []Active) (mount.Mount, error){
	"format": format, "mkdir": mkdir, "mkfs": mkfs,
}

// within opens the root that a path lies in. What it leads to lies there too, whatever links there are.
func (t transform) within(path string) (root *os.Root, below string, err error) {
	for _, dir := range t.roots {
		if rel, ok := strings.CutPrefix(filepath.Clean(path), dir+"/"); ok {
			root, err := os.OpenRoot(dir)
			return root, rel, err
		}
	}
	return nil, "", fmt.Errorf("%q is in none of %s: %w", path, strings.Join(t.roots, ", "), errdefs.ErrNotImplemented)
}

// format fills in what is mounted.
func format(_ context.Context, _ transform, m mount.Mount, active []Active) (mount.Mount, error) {
	var before []mount.Placed
	for _, a := range active {
		before = append(before, mount.Placed{Mount: a.Mount, Point: a.Point})
	}
	return mount.Fill(m, before)
}

// prefixMkdir begins the options that mkdir takes: path=DIR[:MODE[:UID:GID]].
const prefixMkdir = "X-containerd.mkdir."

// mkdir makes the directories that options name, with mode 0700 or the one given, and root's or the one given.
func mkdir(_ context.Context, t transform, m mount.Mount, _ []Active) (mount.Mount, error) {
	var rest []string
	for _, o := range m.Options {
		what, ok := strings.CutPrefix(o, prefixMkdir)
		if !ok {
			rest = append(rest, o)
			continue
		}
		d, err := parseDirectory(what)
		if err == nil {
			err = t.makeDirectory(d)
		}
		if err != nil {
			return m, fmt.Errorf("%q: %w", o, err)
		}
	}
	m.Options = rest
	return m, nil
}

type directory struct {
	path     string
	mode     os.FileMode
	uid, gid int
}

func parseDirectory(what string) (d directory, err error) {
	d.mode, d.uid, d.gid = 0o700, -1, -1
	path, ok := strings.CutPrefix(what, "path=")
	words := strings.Split(path, ":")
	if !ok || len(words) != 1 && len(words) != 2 && len(words) != 4 {
		return d, fmt.Errorf("want path=DIR[:MODE[:UID:GID]]: %w", errdefs.ErrInvalidArgument)
	}
	d.path = words[0]
	if len(words) > 1 {
		mode, err := strconv.ParseUint(words[1], 8, 32)
		if err != nil || mode > 0o777 {
			return d, fmt.Errorf("%q is no mode: %w", words[1], errdefs.ErrInvalidArgument)
		}
		d.mode = os.FileMode(mode)
	}
	if len(words) == 4 {
		var ids [2]uint64
		for i := range ids {
			if ids[i], err = strconv.ParseUint(words[2+i], 10, 31); err != nil {
				return d, fmt.Errorf("%q is no id: %w", words[2+i], errdefs.ErrInvalidArgument)
			}
		}
		d.uid, d.gid = int(ids[0]), int(ids[1])
	}
	return d, nil
}

// makeDirectory makes a directory. One that is there is given the mode and the owner.
func (t transform) makeDirectory(d directory) error {
	root, path, err := t.within(d.path)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(path, d.mode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	st, err := root.Lstat(path)
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("%s is no directory: %w", d.path, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return err
	}
	if d.uid >= 0 {
		if err := root.Lchown(path, d.uid, d.gid); err != nil {
			return err
		}
	}
	return root.Chmod(path, d.mode)
}
