// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	unpack "ctrd.dev/ctrd/lib/layer"
)

const (
	maxPath  = 4096 // PATH_MAX: no layer with a longer name can be unpacked
	dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
)

// level is one directory of a tree. A path is relative to it; "" is the directory itself.
type level struct {
	name string // of the directory, as it was given
	top  int
	dev  uint64
	at   string // path of the directory below that is open
	open int    // its descriptor; -1: none
}

func openLevel(dir string) (*level, error) {
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open tree %s: %w", dir, err)
	}
	l := &level{name: dir, top: fd, open: -1}
	st, err := l.stat("", ".")
	if err != nil {
		l.close()
		return nil, err
	}
	l.dev = st.Dev
	return l, nil
}

func (l *level) close() {
	unix.Close(l.top)
	if l.open >= 0 {
		unix.Close(l.open)
	}
}

// dir gives the descriptor of a directory. It stays open until another one is asked for.
func (l *level) dir(path string) (int, error) {
	if path == "" {
		return l.top, nil
	}
	if l.open >= 0 && l.at == path {
		return l.open, nil
	}
	fd := l.top
	for name := range strings.SplitSeq(path, "/") {
		next, err := openat(fd, name, dirFlags)
		if fd != l.top {
			unix.Close(fd)
		}
		if err != nil {
			return -1, l.fail("open directory", path, err)
		}
		fd = next
	}
	if l.open >= 0 {
		unix.Close(l.open)
	}
	l.at, l.open = path, fd
	return fd, nil
}

func (l *level) stat(dir, name string) (st unix.Stat_t, err error) {
	fd, err := l.dir(dir)
	if err != nil {
		return st, err
	}
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, l.fail("stat", join(dir, name), err)
	}
	return st, nil
}

// entry is one name in a directory.
type entry struct {
	name     string
	st       unix.Stat_t
	whiteout bool
}

// read lists a directory by name, and tells whether it is opaque.
func (l *level) read(path string) (all []entry, opaque bool, err error) {
	fd, err := l.dir(path)
	if err != nil {
		return nil, false, err
	}
	mark, err := l.overlay(path, ".", "opaque")
	if err != nil {
		return nil, false, err
	}
	if moved, err := l.overlay(path, ".", "redirect"); err != nil || moved != "" {
		if err == nil {
			err = fmt.Errorf("%s: directory %q was moved by an overlay with redirect_dir: %w", l.name, path, errdefs.ErrNotImplemented)
		}
		return nil, false, err
	}
	names, err := readNames(fd)
	if err != nil {
		return nil, false, l.fail("read directory", path, err)
	}
	for _, name := range names {
		if len(path)+len(name)+1 >= maxPath {
			return nil, false, fmt.Errorf("%s: a name of more than %d bytes below %.100q: %w", l.name, maxPath, path, errdefs.ErrOutOfRange)
		}
		e := entry{name: name}
		if e.st, err = l.stat(path, name); err != nil {
			return nil, false, err
		}
		switch {
		case e.st.Mode&unix.S_IFMT == unix.S_IFCHR && e.st.Rdev == 0:
			e.whiteout = true
		case e.st.Mode&unix.S_IFMT == unix.S_IFREG && e.st.Size == 0 && mark == "x":
			v, err := l.overlay(path, name, "whiteout")
			if err != nil {
				return nil, false, err
			}
			e.whiteout = v != ""
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	return all, mark == "y", nil
}

func readNames(fd int) ([]string, error) {
	own, err := openat(fd, ".", dirFlags) // with an offset of its own
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(own), "")
	defer f.Close()
	return f.Readdirnames(-1)
}

// overlay gives an extended attribute of overlayfs; "-" stands for an empty one, and empty for none.
func (l *level) overlay(dir, name, attr string) (string, error) {
	for _, prefix := range overlayXattrs {
		v, err := l.xattr(dir, name, prefix+attr)
		switch {
		case err == nil && v == "":
			return "-", nil
		case err == nil:
			return v, nil
		case !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM):
			return "", err
		}
	}
	return "", nil
}

// procName is a name that the calls for extended attributes take, of which none is relative to a descriptor before
// Linux 6.13.
func (l *level) procName(dir, name string) (string, error) {
	fd, err := l.dir(dir)
	return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name, err
}

func (l *level) xattr(dir, name, attr string) (string, error) {
	at, err := l.procName(dir, name)
	if err != nil {
		return "", err
	}
	for size := 256; ; size = 64 << 10 { // XATTR_SIZE_MAX
		buf := make([]byte, size)
		n, err := unix.Lgetxattr(at, attr, buf)
		if errors.Is(err, unix.ERANGE) && size == 256 {
			continue
		}
		if err != nil {
			return "", l.fail("read extended attribute "+strconv.Quote(attr)+" of", join(dir, name), err)
		}
		return string(buf[:n]), nil
	}
}

// xattrs lists the names of those that a layer has, in their order.
func (l *level) xattrs(dir, name string) ([]string, error) {
	at, err := l.procName(dir, name)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 256)
	n, err := unix.Llistxattr(at, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = unix.Llistxattr(at, buf)
	}
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, l.fail("list extended attributes of", join(dir, name), err)
	}
	var all []string
	for attr := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if _, ok := strings.CutSuffix(attr, ".overlay.metacopy"); ok {
			return nil, fmt.Errorf("%s: %q was made by an overlay with metacopy and has no data: %w", l.name, join(dir, name), errdefs.ErrNotImplemented)
		}
		if !unpack.HostXattr(attr) {
			all = append(all, attr)
		}
	}
	slices.Sort(all)
	return all, nil
}

var overlayXattrs = []string{"trusted.overlay.", "user.overlay."}

func (l *level) readlink(dir, name string) (string, error) {
	fd, err := l.dir(dir)
	if err != nil {
		return "", err
	}
	buf := make([]byte, maxPath)
	n, err := unix.Readlinkat(fd, name, buf)
	if err != nil {
		return "", l.fail("read link", join(dir, name), err)
	}
	return string(buf[:n]), nil
}

// fail names the place. What has been seen and is not there any more was changed by somebody.
func (l *level) fail(what, path string, err error) error {
	for _, gone := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EINVAL} {
		if errors.Is(err, gone) {
			return fmt.Errorf("%s: %s %q: it changes while it is read: %w: %w", l.name, what, path, err, errdefs.ErrAborted)
		}
	}
	return fmt.Errorf("%s: %s %q: %w", l.name, what, path, err)
}

func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func join(dir, name string) string {
	switch {
	case name == ".":
		return dir
	case dir == "":
		return name
	}
	return dir + "/" + name
}

// split takes the last name off a path; of "" it gives ".".
func split(path string) (dir, name string) {
	if path == "" {
		return "", "."
	}
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// contents reads a regular file of a known size. Holes are not read from the disk.
type contents struct {
	f         *os.File
	name      string
	size, at  int64
	data, end int64 // at is in a hole up to data, or else in data up to end
	plain     bool  // the file system does not tell holes
}

// file opens a regular file, which must still be the one that st describes.
func (l *level) file(dir, name string, st *unix.Stat_t) (*contents, error) {
	fd, err := l.dir(dir)
	if err != nil {
		return nil, err
	}
	own, err := openat(fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return nil, l.fail("open", join(dir, name), err)
	}
	c := &contents{f: os.NewFile(uintptr(own), join(dir, name)), name: l.name, size: st.Size}
	var now unix.Stat_t
	if err := unix.Fstat(own, &now); err != nil || now.Ino != st.Ino || now.Mode != st.Mode || now.Size != st.Size {
		c.f.Close()
		return nil, l.fail("open", join(dir, name), cmp.Or(err, error(unix.ENOENT)))
	}
	c.plain = now.Blocks*512 >= now.Size // it has no hole
	return c, nil
}

// Read gives zeros for holes, and an errdefs.ErrAborted for a file that has become shorter.
func (c *contents) Read(p []byte) (int, error) {
	if c.at >= c.size {
		return 0, io.EOF
	}
	if c.plain {
		c.data, c.end = c.at, c.size
	} else if c.at >= c.end {
		if err := c.seek(); err != nil {
			return 0, err
		}
	}
	if c.at < c.data {
		n := min(int64(len(p)), c.data-c.at)
		clear(p[:n])
		c.at += n
		return int(n), nil
	}
	n, err := c.f.ReadAt(p[:min(int64(len(p)), c.end-c.at)], c.at)
	c.at += int64(n)
	if n > 0 || err == nil {
		return n, nil
	}
	if err == io.EOF {
		err = fmt.Errorf("it has become shorter while it was read: %w", errdefs.ErrAborted)
	}
	return 0, fmt.Errorf("%s: read %q: %w", c.name, c.f.Name(), err)
}

// seek finds the data behind at, and its end.
func (c *contents) seek() error {
	fd := int(c.f.Fd())
	data, err := unix.Seek(fd, c.at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		c.data, c.end = c.size, c.size
		return nil
	case errors.Is(err, unix.EINVAL):
		c.plain, c.data, c.end = true, c.at, c.size
		return nil
	case err != nil:
		return fmt.Errorf("%s: look for data of %q: %w", c.name, c.f.Name(), err)
	}
	end, err := unix.Seek(fd, data, unix.SEEK_HOLE)
	if err != nil {
		return fmt.Errorf("%s: look for a hole of %q: %w", c.name, c.f.Name(), err)
	}
	c.data, c.end = min(data, c.size), min(end, c.size)
	return nil
}
