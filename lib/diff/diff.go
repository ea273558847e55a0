// SPDX-License-Identifier: Apache-2.0

// Package diff finds what is different between two file trees, writes it as an image layer, and puts a layer onto mounts.
//
// A tree is one directory, or several that overlayfs would stack: whiteouts (character devices 0/0, and empty files with
// the attribute overlay.whiteout) and opaque directories (overlay.opaque) mean what they mean to the kernel
// (Documentation/filesystems/overlayfs.rst). [Changes] and [Write] mount nothing and write to no tree.
//
// A layer is a tar of the OCI image specification (layer.md): POSIX with PAX records for long names, large numbers,
// nanoseconds and SCHILY.xattr.*; a removed name is .wh.NAME, an opaque directory has .wh..wh..opq. The same trees give
// the same bytes. Left out are sockets, access times, and extended attributes that lib/layer does not unpack either
// because they speak to the host. Holes of a sparse file are written as zeros, which the specification prefers.
//
// A name below a tree is reached from a descriptor, one component at a time, without following a symbolic link. Nobody
// may change a tree meanwhile: a change that is noticed is errdefs.ErrAborted, another one shows in the result or not.
package diff

import (
	"context"
	"iter"
)

// Tree names the directories that are seen as one, the top first. None is an empty tree.
type Tree []string

// Kind is how a name differs.
type Kind string

// The kinds. A file that takes the place of a directory, or the other way round, is modified.
const (
	Add    Kind = "add"
	Modify Kind = "modify"
	Delete Kind = "delete"
)

// Change is one name that differs.
type Change struct {
	Path string `json:"path"` // from the root of the tree, which is "/"
	Kind Kind   `json:"kind"`
}

// Changes yields what makes to of from: what was added, what has another type, mode, owner, time of change, extended
// attribute, content, link target or device number, and what is gone. Of a directory that is gone nothing below is
// listed. The time of the root does not count, because that of a new snapshot is its own. A directory comes before what
// is in it; in it, what is gone comes first; otherwise names are in the order of their bytes. An error ends it.
func Changes(ctx context.Context, from, to Tree) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		c, err := compare(ctx, from, to)
		if err != nil {
			yield(Change{}, err)
			return
		}
		defer c.close()
		err = c.run(func(kind Kind, path string, _ *node) error {
			if kind != same && !yield(Change{"/" + path, kind}, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && err != errStop {
			yield(Change{}, err)
		}
	}
}
