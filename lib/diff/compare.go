// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// same is the kind of a name that does not differ.
const same Kind = ""

// errStop ends a comparison that nobody wants to see the end of.
var errStop = errors.New("stop")

// node is one name as a tree shows it.
type node struct {
	name   string
	dir    string // that it is in
	st     unix.Stat_t
	level  *level   // that it is seen of
	levels []*level // of a directory: those that have a part of it, the top first
	merges bool     // further levels may have a part of it
}

func (n *node) isDir() bool { return n.st.Mode&unix.S_IFMT == unix.S_IFDIR }

func (n *node) path() string { return join(n.dir, n.name) }

// comparison is of two trees. Directories that both have are the same levels.
type comparison struct {
	ctx      context.Context
	levels   map[string]*level
	from, to []*level
	buf      [2][]byte
	step     func(kind Kind, path string, to *node) error // to is nil for what is gone
}

func compare(ctx context.Context, from, to Tree) (*comparison, error) {
	c := &comparison{ctx: ctx, levels: map[string]*level{}}
	err := c.open(from, &c.from)
	if err == nil {
		err = c.open(to, &c.to)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *comparison) open(t Tree, into *[]*level) error {
	for _, dir := range t {
		dir = filepath.Clean(dir)
		l := c.levels[dir]
		if l == nil {
			var err error
			if l, err = openLevel(dir); err != nil {
				return err
			}
			c.levels[dir] = l
		}
		*into = append(*into, l)
	}
	return nil
}

func (c *comparison) close() {
	for _, l := range c.levels {
		l.close()
	}
}

// run calls step for each name that to has or from has, except below what is gone, and except below directories of
// which both trees have the same parts.
func (c *comparison) run(step func(kind Kind, path string, to *node) error) error {
	c.step = step
	to, err := root(c.to)
	if err != nil {
		return err
	}
	from, err := root(c.from)
	if err != nil {
		return err
	}
	if to != nil {
		kind := Add
		if from != nil {
			from.st.Mtim = to.st.Mtim // it does not count
			if kind, err = c.differ(from, to); err != nil {
				return err
			}
		}
		if err := step(kind, "", to); err != nil {
			return err
		}
	}
	return c.directory("", c.from, c.to)
}

// root is the directory itself; nil of an empty tree.
func root(levels []*level) (*node, error) {
	if len(levels) == 0 {
		return nil, nil
	}
	st, err := levels[0].stat("", ".")
	return &node{name: ".", st: st, level: levels[0], levels: levels}, err
}

// directory compares what is in one directory.
func (c *comparison) directory(path string, from, to []*level) error {
	if slices.Equal(from, to) {
		return nil
	}
	old, err := list(path, from)
	if err != nil {
		return err
	}
	now, err := list(path, to)
	if err != nil {
		return err
	}
	was := map[string]*node{}
	for _, n := range old {
		was[n.name] = n
	}
	is := map[string]bool{}
	for _, n := range now {
		is[n.name] = true
	}
	for _, n := range old {
		if !is[n.name] {
			if err := c.step(Delete, n.path(), nil); err != nil {
				return err
			}
		}
	}
	for _, n := range now {
		if err := context.Cause(c.ctx); err != nil {
			return err
		}
		if err := c.name(was[n.name], n); err != nil {
			return err
		}
	}
	return nil
}

// name compares one name, of which from may be nil, and what is below it.
func (c *comparison) name(from, to *node) error {
	kind, err := Add, error(nil)
	if from != nil {
		if kind, err = c.differ(from, to); err != nil {
			return err
		}
	}
	if err := c.step(kind, to.path(), to); err != nil || !to.isDir() {
		return err
	}
	var below []*level
	if from != nil {
		below = from.levels
	}
	return c.directory(to.path(), below, to.levels)
}

// list gives what a tree shows in a directory, by name.
func list(path string, levels []*level) ([]*node, error) {
	seen := map[string]*node{} // nil: a whiteout hides it
	for _, l := range levels {
		entries, opaque, err := l.read(path)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			n, known := seen[e.name]
			isDir := e.st.Mode&unix.S_IFMT == unix.S_IFDIR
			switch {
			case !known && e.whiteout:
				seen[e.name] = nil
			case !known:
				n = &node{name: e.name, dir: path, st: e.st, level: l}
				if isDir && e.st.Dev == l.dev { // what is mounted there is no part of the tree
					n.levels, n.merges = []*level{l}, true
				}
				seen[e.name] = n
			case n == nil || !n.merges:
			case isDir && e.st.Dev == l.dev:
				n.levels = append(n.levels, l)
			default:
				n.merges = false
			}
		}
		if opaque && path != "" { // overlayfs takes no notice of an opaque root
			break
		}
	}
	all := make([]*node, 0, len(seen))
	for _, n := range seen {
		if n != nil {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// differ is Modify or same. Of directories it does not look at what is in them.
func (c *comparison) differ(from, to *node) (Kind, error) {
	a, b := &from.st, &to.st
	if a.Dev == b.Dev && a.Ino == b.Ino {
		return same, nil
	}
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim != b.Mtim {
		return Modify, nil
	}
	equal := true
	var err error
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		equal = a.Rdev == b.Rdev
	case unix.S_IFLNK:
		equal, err = sameText(from, to, func(n *node) (string, error) { return n.level.readlink(n.dir, n.name) })
	case unix.S_IFREG:
		equal = a.Size == b.Size
	}
	if equal && err == nil {
		equal, err = sameXattrs(from, to)
	}
	if equal && err == nil && a.Mode&unix.S_IFMT == unix.S_IFREG {
		equal, err = c.sameContents(from, to)
	}
	if err != nil || equal {
		return same, err
	}
	return Modify, nil
}

func sameText(from, to *node, text func(*node) (string, error)) (bool, error) {
	a, err := text(from)
	if err != nil {
		return false, err
	}
	b, err := text(to)
	return a == b, err
}

func sameXattrs(from, to *node) (bool, error) {
	a, err := from.level.xattrs(from.dir, from.name)
	if err != nil {
		return false, err
	}
	b, err := to.level.xattrs(to.dir, to.name)
	if err != nil || !slices.Equal(a, b) {
		return false, err
	}
	for _, attr := range a {
		equal, err := sameText(from, to, func(n *node) (string, error) { return n.level.xattr(n.dir, n.name, attr) })
		if err != nil || !equal {
			return false, err
		}
	}
	return true, nil
}

const readSize = 256 << 10

// sameContents reads two files of one size.
func (c *comparison) sameContents(from, to *node) (bool, error) {
	if c.buf[0] == nil {
		c.buf = [2][]byte{make([]byte, readSize), make([]byte, readSize)}
	}
	var files [2]*contents
	for i, n := range []*node{from, to} {
		f, err := n.level.file(n.dir, n.name, &n.st)
		if err != nil {
			return false, err
		}
		defer f.f.Close()
		files[i] = f
	}
	for left := to.st.Size; left > 0; {
		if err := context.Cause(c.ctx); err != nil {
			return false, err
		}
		n := min(left, readSize)
		for i, f := range files {
			if _, err := io.ReadFull(f, c.buf[i][:n]); err != nil {
				return false, err
			}
		}
		if !bytes.Equal(c.buf[0][:n], c.buf[1][:n]) {
			return false, nil
		}
		left -= n
	}
	return true, nil
}
