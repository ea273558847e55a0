// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"

	unpack "ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
)

// Apply puts a layer onto what mounts describe, as containerd's diff service does (api/services/diff/v1/diff.proto). Of
// the result, DiffID and Bytes describe the uncompressed tar, which is what that service answers with. Onto an overlay, with lower directories or with an upper one alone, the layer goes in overlay form into the upper
// directory, and nothing is mounted. Onto a bind mount it goes into the source. Anything else is mounted meanwhile.
// Nothing else may use the mounts. After an error they may have a part of the layer.
func Apply(ctx context.Context, r io.Reader, opt unpack.Options, mounts []mount.Mount) (res unpack.Result, err error) {
	put := func(dir string, overlaid bool, below []string) (err error) {
		res, err = unpack.Onto(ctx, r, dir, overlaid, below, opt)
		return err
	}
	flat, done, err := mount.Flat(mounts)
	if err != nil {
		return res, fmt.Errorf("apply: %w", err)
	}
	defer func() { err = errors.Join(err, done()) }()
	p, err := partsOf(flat)
	switch {
	case err != nil:
	case p.readOnly:
		err = fmt.Errorf("the mounts are read-only: %w", errdefs.ErrInvalidArgument)
	case p.upper != "":
		opt.UserXattr = opt.UserXattr || p.userXattr
		err = put(p.upper, true, p.lower)
	case len(p.lower) == 1:
		err = put(p.lower[0], false, nil)
	default:
		err = mounted(mounts, func(at string) error { return put(at, false, nil) })
	}
	if err != nil {
		return res, fmt.Errorf("apply: %w", err)
	}
	return res, nil
}

// Compare writes the layer that makes upper of lower, see [Write]. Mounts that are no overlay and no bind mount are
// mounted meanwhile. No lower mounts are an empty tree.
func Compare(ctx context.Context, w io.Writer, lower, upper []mount.Mount, o Options) (r Result, err error) {
	err = withTree(lower, func(from Tree) error {
		return withTree(upper, func(to Tree) (err error) {
			r, err = Write(ctx, w, from, to, o)
			return err
		})
	})
	return r, err
}

// withTree calls fn with the directories that mounts show.
func withTree(mounts []mount.Mount, fn func(Tree) error) (err error) {
	if len(mounts) == 0 {
		return fn(nil)
	}
	flat, done, err := mount.Flat(mounts)
	if err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	defer func() { err = errors.Join(err, done()) }()
	p, err := partsOf(flat)
	switch {
	case err != nil:
		return fmt.Errorf("diff: %w", err)
	case p.upper != "":
		return fn(append(Tree{p.upper}, p.lower...))
	case len(p.lower) > 0:
		return fn(p.lower)
	}
	return mounted(mounts, func(at string) error { return fn(Tree{at}) })
}

// parts are the directories that a mount shows: those of an overlay, or the one of a bind mount as a lower one.
type parts struct {
	upper               string
	lower               []string
	readOnly, userXattr bool
}

// partsOf takes one mount apart. Of several, and of another kind, it gives nothing.
func partsOf(mounts []mount.Mount) (p parts, err error) {
	if len(mounts) == 0 {
		return p, fmt.Errorf("no mounts: %w", errdefs.ErrInvalidArgument)
	}
	m := mounts[0]
	if len(mounts) > 1 || m.Target != "" && m.Target != "/" {
		return p, nil
	}
	for _, o := range m.Options {
		p.readOnly = p.readOnly || o == "ro"
		p.userXattr = p.userXattr || o == "userxattr"
		if strings.HasPrefix(o, "uidmap=") || strings.HasPrefix(o, "gidmap=") {
			return p, nil // owners are not those of the directories
		}
	}
	switch m.Type {
	case "bind", "rbind":
		p.lower = []string{m.Source}
	case "overlay":
		p.upper, p.lower, err = mount.Layers(m.Options)
		p.readOnly = p.readOnly || p.upper == ""
	}
	return p, err
}

// mounted mounts where nobody else sees it, so that a kill leaves nothing.
func mounted(mounts []mount.Mount, fn func(at string) error) (err error) {
	tree, err := mount.Tree(mounts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	return fn(mount.Directory(tree))
}
