// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	xattrRecord    = "SCHILY.xattr."
)

// Options says how a layer is written.
type Options struct {
	Compression *Compression // nil: none
	// Latest, when set, takes the place of each later time of change (SOURCE_DATE_EPOCH,
	// https://reproducible-builds.org/specs/source-date-epoch).
	Latest time.Time
	// Places are files, by path from the root without a leading slash, that are left out when they are empty: where
	// something was mounted.
	Places map[string]bool
}

// Result describes a layer that was written.
type Result struct {
	Descriptor ocispec.Descriptor // media type, digest and size of what was written
	DiffID     digest.Digest      // of the uncompressed tar
}

// Write writes the layer that makes to of from, when it is put on top of from.
//
// When to is from with one directory more on top, the layer is that directory: all that is in it, whiteouts and opaque
// directories included. So a layer that lib/layer has unpacked comes out again. Otherwise the layer has what [Changes]
// yields, the directories above it, and the other names of a file that has several.
//
// A name that begins with .wh., which would be a whiteout, and an extended attribute whose name has a "=" are
// errdefs.ErrFailedPrecondition: no layer can have them. What an overlay with redirect_dir or metacopy has left is
// errdefs.ErrNotImplemented. After an error w has a part of a layer.
func Write(ctx context.Context, w io.Writer, from, to Tree, o Options) (r Result, err error) {
	c, err := compare(ctx, from, to)
	if err != nil {
		return r, fmt.Errorf("diff: %w", err)
	}
	defer c.close()
	out, err := newOutput(w, o.Compression)
	if err != nil {
		return r, fmt.Errorf("diff: %w", err)
	}
	l := &layer{comparison: c, tar: tar.NewWriter(out), latest: o.Latest, places: o.Places, names: map[inode]string{}, others: map[inode][]*name{}}
	if len(c.to) > 0 && slices.Equal(c.from, c.to[1:]) {
		err = l.whole()
	} else {
		err = c.run(l.add)
	}
	if err == nil {
		err = l.tar.Close()
	}
	if err == nil {
		r, err = out.finish()
	} else {
		out.abandon()
	}
	if err != nil {
		return Result{}, fmt.Errorf("diff: %w", err)
	}
	return r, nil
}

type inode struct{ dev, ino uint64 }

// name is one that is in the layer, or may come into it later.
type name struct {
	*node
	in   *name // directory
	done bool
}

// layer writes entries.
type layer struct {
	*comparison
	tar    *tar.Writer
	latest time.Time
	places map[string]bool
	names  map[inode]string  // of files with several names: the one that is in the layer
	others map[inode][]*name // of these: names that have not changed
	in     *name             // the directory that is being compared
	copy   []byte
}

// whole writes the uppermost directory of to as it is.
func (l *layer) whole() error {
	top := l.to[0]
	n, err := root(l.to[:1])
	if err != nil {
		return err
	}
	return l.level(top, n, false)
}

// level writes one directory of a level, and what is in it. hidden says that nothing of the levels below is seen in it.
func (l *layer) level(top *level, n *node, hidden bool) error {
	if err := l.entry(n); err != nil {
		return err
	}
	path := n.path()
	entries, opaque, err := top.read(path)
	if err != nil {
		return err
	}
	if opaque {
		if err := l.mark(path, opaqueName); err != nil {
			return err
		}
	}
	hidden = hidden || opaque
	if !hidden {
		if err := l.whiteouts(path, entries); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := context.Cause(l.ctx); err != nil {
			return err
		}
		n := &node{name: e.name, dir: path, st: e.st, level: top}
		switch {
		case e.whiteout:
		case n.isDir() && e.st.Dev == top.dev:
			err = l.level(top, n, hidden)
		default:
			err = l.entry(n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whiteouts writes the whiteouts of a directory, before all else in it, as the specification asks. A socket is no part
// of a layer, but what it hides must not come back.
func (l *layer) whiteouts(path string, entries []entry) error {
	var below map[string]bool
	for _, e := range entries {
		if !e.whiteout {
			if e.st.Mode&unix.S_IFMT != unix.S_IFSOCK {
				continue
			}
			if below == nil {
				var err error
				if below, err = shown(l.from, path); err != nil {
					return err
				}
			}
			if !below[e.name] {
				continue
			}
		}
		if err := l.mark(path, whiteoutPrefix+e.name); err != nil {
			return err
		}
	}
	return nil
}

// shown gives the names that a tree has in a directory, which may not be there.
func shown(levels []*level, path string) (map[string]bool, error) {
	at := ""
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		all, err := list(at, levels)
		if err != nil {
			return nil, err
		}
		levels = nil
		for _, n := range all {
			if n.name == name {
				levels = n.levels
			}
		}
		at = join(at, name)
	}
	all, err := list(path, levels)
	names := map[string]bool{}
	for _, n := range all {
		names[n.name] = true
	}
	return names, err
}

// add writes a change; what has not changed it remembers as far as a later one may need it.
func (l *layer) add(kind Kind, path string, to *node) error {
	dir, base := split(path)
	for l.in != nil && (path == "" || l.in.path() != dir) {
		l.in = l.in.in
	}
	if kind == Delete {
		if err := l.parents(l.in); err != nil {
			return err
		}
		return l.mark(dir, whiteoutPrefix+base)
	}
	n := &name{node: to, in: l.in}
	if to.isDir() {
		l.in = n
	}
	id := inode{to.st.Dev, to.st.Ino}
	_, linked := l.names[id]
	switch {
	case kind != same && to.st.Mode&unix.S_IFMT == unix.S_IFSOCK && kind == Modify:
		if err := l.parents(n.in); err != nil {
			return err
		}
		return l.mark(dir, whiteoutPrefix+base)
	case kind != same || linked && !to.isDir():
		if err := l.write(n); err != nil {
			return err
		}
		others := l.others[id]
		delete(l.others, id)
		for _, o := range others {
			if err := l.write(o); err != nil {
				return err
			}
		}
	case to.st.Nlink > 1 && !to.isDir():
		l.others[id] = append(l.others[id], n)
	}
	return nil
}

// write writes an entry and those of the directories that it is in.
func (l *layer) write(n *name) error {
	if err := l.parents(n.in); err != nil {
		return err
	}
	n.done = true
	return l.entry(n.node)
}

func (l *layer) parents(n *name) error {
	if n == nil || n.done {
		return nil
	}
	return l.write(n)
}

// mark writes an empty file that stands for something else.
func (l *layer) mark(dir, base string) error {
	return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: join(dir, base), Format: tar.FormatPAX})
}

// entry writes what one name stands for.
func (l *layer) entry(n *node) error {
	path := n.path()
	if strings.HasPrefix(n.name, whiteoutPrefix) {
		return fmt.Errorf("%s: %q: no layer can have a name that begins with %s: %w", n.level.name, path, whiteoutPrefix, errdefs.ErrFailedPrecondition)
	}
	hdr := l.header(n, path)
	if hdr == nil || hdr.Typeflag == tar.TypeReg && hdr.Size == 0 && l.places[path] {
		return nil
	}
	if n.st.Nlink > 1 && !n.isDir() {
		id := inode{n.st.Dev, n.st.Ino}
		if first, ok := l.names[id]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size, hdr.Devmajor, hdr.Devminor = tar.TypeLink, first, 0, 0, 0
			return l.put(n, hdr)
		}
		l.names[id] = path
	}
	if hdr.Typeflag == tar.TypeSymlink {
		var err error
		if hdr.Linkname, err = n.level.readlink(n.dir, n.name); err != nil {
			return err
		}
	}
	if err := l.xattrs(n, hdr); err != nil {
		return err
	}
	if err := l.put(n, hdr); err != nil || hdr.Typeflag != tar.TypeReg || hdr.Size == 0 {
		return err
	}
	return l.data(n)
}

func (l *layer) put(n *node, hdr *tar.Header) error {
	if err := l.tar.WriteHeader(hdr); err != nil {
		return fmt.Errorf("%s: entry %q: %w", n.level.name, hdr.Name, err)
	}
	return nil
}

// header gives the entry without what has to be read for it; nil for what a layer does not have.
func (l *layer) header(n *node, path string) *tar.Header {
	st := &n.st
	hdr := &tar.Header{
		Name: path, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX, // which keeps nanoseconds
	}
	if !l.latest.IsZero() && hdr.ModTime.After(l.latest) {
		hdr.ModTime = l.latest
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		hdr.Typeflag, hdr.Name = tar.TypeDir, path+"/"
		if path == "" {
			hdr.Name = "./"
		}
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		if hdr.Typeflag = tar.TypeChar; st.Mode&unix.S_IFMT == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil
	}
	return hdr
}

func (l *layer) xattrs(n *node, hdr *tar.Header) error {
	all, err := n.level.xattrs(n.dir, n.name)
	for _, attr := range all {
		if strings.Contains(attr, "=") {
			return fmt.Errorf("%s: %q: no layer can have the extended attribute %q: %w", n.level.name, n.path(), attr, errdefs.ErrFailedPrecondition)
		}
		v, err := n.level.xattr(n.dir, n.name, attr)
		if err != nil {
			return err
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[xattrRecord+attr] = v
	}
	return err
}

func (l *layer) data(n *node) error {
	f, err := n.level.file(n.dir, n.name, &n.st)
	if err != nil {
		return err
	}
	defer f.f.Close()
	if l.copy == nil {
		l.copy = make([]byte, readSize)
	}
	for {
		k, err := f.Read(l.copy)
		if k > 0 {
			if _, err := l.tar.Write(l.copy[:k]); err != nil {
				return fmt.Errorf("%s: entry %q: %w", n.level.name, n.path(), err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = context.Cause(l.ctx)
		}
		if err != nil {
			return err
		}
	}
}
