// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxFile = 1 << 40  // bytes; an entry that claims more is no file of an image
	maxKept = 64 << 20 // bytes of names and attributes that are kept until finish

	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
	// aufs kept the files that have several names here, so old layers have hard links to them.
	plinkDir = ".wh..wh.plnk"
)

// unpacker makes the entries of one layer.
type unpacker struct {
	*tree
	opaqueXattr string
	transient   bool // see Options
	euid, egid  int
	umask       uint32
	foreign     bool // mode and group of new files follow other rules than umask and egid
	buf         *[blockSize]byte
	sparse      int64 // bytes of all sparse files so far
	kept        int   // bytes, see maxKept
	plinks      bool
	dirs        map[string]*dirMeta
	order       []string // of dirs, as they were made
}

// dirMeta is what finish does to a directory after everything in it is made.
type dirMeta struct {
	meta
	made      bool // by this layer: it gets meta's mode and owner
	entry     bool // and its times and attributes
	opaque    bool
	fresh     bool // it takes the place of one that the layer removed, and has nothing from below
	gone      bool // a later entry took its place
	whiteouts []string
	done      bool
}

// renew keeps all that is below from being seen in the directory.
func (d *dirMeta) renew() { d.opaque, d.fresh = true, true }

func newUnpacker(dir string, opt Options) (*unpacker, error) {
	t, err := newTree(dir)
	if err != nil {
		return nil, fmt.Errorf("unpack layer: %w", err)
	}
	u := &unpacker{
		tree:        t,
		opaqueXattr: "trusted.overlay.opaque",
		transient:   opt.Transient,
		euid:        os.Geteuid(),
		egid:        os.Getegid(),
		buf:         buffers.Get().(*[blockSize]byte),
		dirs:        map[string]*dirMeta{"": {meta: meta{mode: 0o755, uid: os.Geteuid(), gid: os.Getegid()}, made: true}},
		order:       []string{""},
	}
	if opt.UserXattr {
		u.opaqueXattr = "user.overlay.opaque"
	}
	if err := u.inspect(); err != nil {
		t.close()
		return nil, fmt.Errorf("unpack layer into %s: %w", dir, err)
	}
	return u, nil
}

func (u *unpacker) close() {
	buffers.Put(u.buf)
	u.tree.close()
}

// inspect learns how the kernel will make files in the directory.
func (u *unpacker) inspect() error {
	if err := isEmpty(u.top); err != nil {
		return err
	}
	top, err := u.fd("")
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		return err
	}
	_, err = unix.Fgetxattr(top, "system.posix_acl_default", nil)
	u.foreign = err == nil || st.Mode&unix.S_ISGID != 0 || int(st.Gid) != u.egid
	// The kernel tells the mask without changing it, which would change it for all threads.
	u.umask = 0o777
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok {
			fmt.Sscanf(strings.TrimSpace(v), "%o", &u.umask)
		}
	}
	return nil
}

// entry makes one entry of the archive.
func (u *unpacker) entry(ctx context.Context, hdr *tar.Header, r io.Reader) error {
	switch {
	case hdr.Typeflag == tar.TypeXGlobalHeader:
		return nil
	case hdr.Typeflag == tar.TypeReg && strings.HasSuffix(hdr.Name, "/"):
		hdr.Typeflag = tar.TypeDir // as before POSIX had a type for directories (pax, "ustar Interchange Format")
	}
	name, err := clean(hdr.Name)
	if err != nil {
		return err
	}
	m, err := metaOf(hdr)
	if err != nil {
		return err
	}
	if name == "" {
		if hdr.Typeflag != tar.TypeDir {
			return invalid("the root of a layer is a directory")
		}
		return u.describe(u.dir(""), m)
	}
	parent, base := split(name)
	first, _, _ := strings.Cut(name, "/")
	if base == opaqueName {
		real, err := u.parent(parent)
		if err == nil {
			u.dir(real).opaque = true
		}
		return err
	}
	if first == plinkDir {
		u.plinks = true
	} else if strings.HasPrefix(base, metaPrefix) {
		return nil
	} else if removed, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return u.whiteout(parent, removed)
	}
	real, err := u.parent(parent)
	if err != nil {
		return err
	}
	return u.make(ctx, hdr, r, m, real, base)
}

// make makes an entry that is not a whiteout.
func (u *unpacker) make(ctx context.Context, hdr *tar.Header, r io.Reader, m meta, parent, base string) error {
	switch hdr.Typeflag {
	case tar.TypeDir:
		return u.directory(parent, base, m)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return u.file(ctx, hdr, r, m, parent, base)
	case tar.TypeLink:
		return u.hardlink(hdr.Linkname, parent, base)
	case tar.TypeSymlink:
		if n := len(hdr.Linkname); n == 0 || n >= maxPath {
			return invalid("symbolic link to a name of %d bytes", n)
		}
		return u.node(parent, base, m, unix.S_IFLNK, func(pfd int) error { return unix.Symlinkat(hdr.Linkname, pfd, base) })
	case tar.TypeFifo:
		return u.device(parent, base, m, unix.S_IFIFO, 0)
	case tar.TypeChar, tar.TypeBlock:
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return invalid("device %d:%d does not exist on Linux", hdr.Devmajor, hdr.Devminor)
		}
		kind := uint32(unix.S_IFCHR)
		if hdr.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		return u.device(parent, base, m, kind, unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)))
	}
	return invalid("unknown type %q", hdr.Typeflag)
}

// clean gives the path of an entry from the layer's root, "" for the root. An absolute name counts from
// the root, as it does for every runtime; one that leads above it is an error.
func clean(name string) (string, error) {
	p := path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case name == "":
		return "", invalid("empty name")
	case strings.IndexByte(name, 0) >= 0:
		return "", invalid("name with a NUL byte")
	case p == ".":
		return "", nil
	case p == ".." || strings.HasPrefix(p, "../"):
		return "", invalid("name leads out of the layer")
	case len(p) >= maxPath:
		return "", invalid("name of %d bytes", len(p))
	}
	for c := range strings.SplitSeq(p, "/") {
		if len(c) > maxName {
			return "", invalid("name with a component of %d bytes", len(c))
		}
	}
	return p, nil
}

// parent resolves the directory of an entry and makes what is missing of it.
func (u *unpacker) parent(path string) (string, error) {
	return u.resolve(path, u.mkdir, func(pfd int, real string) error {
		_, base := split(real)
		if err := unix.Unlinkat(pfd, base, 0); err != nil && err != unix.ENOENT {
			return err
		}
		if err := u.mkdir(pfd, real); err != nil {
			return err
		}
		u.dir(real).renew() // the layer removed the directory below and made a new one
		return nil
	})
}

// mkdir makes a directory that has had no entry so far.
func (u *unpacker) mkdir(pfd int, real string) error {
	_, base := split(real)
	err := unix.Mkdirat(pfd, base, createMode)
	if err == unix.EEXIST {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make directory %q: %w", short(real), err)
	}
	_, err = u.newDir(real)
	return err
}

func (u *unpacker) newDir(real string) (*dirMeta, error) {
	d := &dirMeta{meta: meta{mode: 0o755, uid: u.euid, gid: u.egid}, made: true}
	real = strings.Clone(real) // it may be a part of a large header
	u.dirs[real] = d
	u.order = append(u.order, real)
	return d, u.keep(len(real))
}

// describe notes what finish gives a directory that has an entry. The attributes are copied, because they
// are parts of the whole header.
func (u *unpacker) describe(d *dirMeta, m meta) error {
	const overhead = 64
	d.meta, d.made, d.entry = m, true, true
	for i, x := range m.xattrs {
		if err := u.keep(len(x.name) + len(x.value) + overhead); err != nil {
			return err
		}
		m.xattrs[i] = xattr{strings.Clone(x.name), strings.Clone(x.value)}
	}
	return nil
}

// keep bounds what a small archive can make the unpacker remember.
func (u *unpacker) keep(n int) error {
	if u.kept += n; u.kept > maxKept {
		return invalid("the names and extended attributes of its directories have more than %d bytes", maxKept)
	}
	return nil
}

// dir gives what is known of an existing directory.
func (u *unpacker) dir(real string) *dirMeta {
	d := u.dirs[real]
	if d == nil { // another process made it
		d = &dirMeta{}
		u.dirs[real] = d
		u.order = append(u.order, real)
	}
	return d
}

func (u *unpacker) directory(parent, base string, m meta) error {
	real := join(parent, base)
	opaque := false
	for range 3 {
		pfd, err := u.fd(parent)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(pfd, base, createMode)
		if err == nil {
			d, err := u.newDir(real)
			if err != nil {
				return err
			}
			if opaque {
				d.renew()
			}
			return u.describe(d, m)
		}
		if err != unix.EEXIST {
			return fmt.Errorf("make directory: %w", err)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(pfd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("stat: %w", err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return u.describe(u.dir(real), m)
		}
		opaque = opaque || isWhiteout(&st)
		if err := u.remove(parent, base); err != nil {
			return err
		}
	}
	return errRace
}

var errRace = errors.New("another process changes the directory")

// place makes a name with create, after removing what an earlier entry put there.
func (u *unpacker) place(parent, base string, create func(pfd int) error) error {
	for range 3 {
		pfd, err := u.fd(parent)
		if err != nil {
			return err
		}
		if err := create(pfd); err != unix.EEXIST {
			return err
		}
		if err := u.remove(parent, base); err != nil {
			return err
		}
	}
	return errRace
}

// remove deletes a name and all below it.
func (u *unpacker) remove(parent, base string) error {
	pfd, err := u.fd(parent)
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(pfd, base, 0); err == nil || err == unix.ENOENT {
		return nil
	}
	real := join(parent, base)
	u.forget(real)
	if err := u.root.RemoveAll(real); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	return nil
}

// whiteout hides a name of the layers below.
func (u *unpacker) whiteout(parent, base string) error {
	if base == "" || base == "." || base == ".." {
		return invalid("whiteout of no name")
	}
	real, err := u.parent(parent)
	if err != nil {
		return err
	}
	pfd, err := u.fd(real)
	if err != nil {
		return err
	}
	err = unix.Mknodat(pfd, base, unix.S_IFCHR, 0)
	if err == nil {
		d := u.dir(real)
		d.whiteouts = append(d.whiteouts, strings.Clone(base))
		return u.keep(len(base))
	}
	if err != unix.EEXIST {
		return fmt.Errorf("make whiteout (character device 0/0): %w", err)
	}
	// What this layer itself has under the name hides a file below, but would be merged with a directory.
	var st unix.Stat_t
	if err := unix.Fstatat(pfd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		u.dir(join(real, base)).renew()
	}
	return nil
}

func (u *unpacker) hardlink(target, parent, base string) error {
	p, err := clean(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", short(target), err)
	}
	tdir, tbase := split(p)
	none := func(int, string) error {
		return invalid("hard link to %q, which the layer does not have", short(target))
	}
	if tdir, err = u.resolve(tdir, none, none); err != nil {
		return err
	}
	if tbase == "" || tdir == parent && tbase == base {
		return invalid("hard link to %q, which is the entry itself or the root", short(target))
	}
	tfd, err := u.fd(tdir)
	if err != nil {
		return err
	}
	// A descriptor of our own, because asking for the other directory may close this one.
	if tfd, err = unix.FcntlInt(uintptr(tfd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return err
	}
	defer unix.Close(tfd)
	err = u.place(parent, base, func(pfd int) error { return unix.Linkat(tfd, tbase, pfd, base, 0) })
	switch err {
	case nil:
		return nil
	case unix.ENOENT:
		return none(0, "")
	case unix.EPERM:
		var st unix.Stat_t
		if unix.Fstatat(tfd, tbase, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return invalid("hard link to %q, which is a directory", short(target))
		}
	}
	return fmt.Errorf("hard link to %q: %w", short(target), refused(err))
}
