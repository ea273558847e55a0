// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Opener opens a regular file of an image for reading by its absolute path in the image. An error that
// is fs.ErrNotExist says that the image has no such file.
type Opener func(path string) (io.ReadCloser, error)

// Layers reads files out of the layer directories of an overlay that need not be mounted.
type Layers struct {
	dirs []string
}

// LayerFS is the file system that overlayfs would show with these lower directories, the top one first.
// A whiteout is a character device 0/0, and an opaque directory has the attribute trusted.overlay.opaque
// or user.overlay.opaque with the value "y", as the kernel's documentation of overlayfs says.
func LayerFS(dirs []string) *Layers { return &Layers{dirs: dirs} }

const (
	maxLinks = 40 // as the kernel's own limit
	maxParts = 4096
)

// Open opens a regular file for reading. Symbolic links are followed inside the layers only: an absolute
// target and ".." stop at the layers' root, whoever changes the directories meanwhile. Nothing but a
// regular file is ever opened: a FIFO or a device is errdefs.ErrInvalidArgument, as is a directory. What
// is absent is fs.ErrNotExist, and more than forty links is ELOOP. Directories that the kernel moved
// (redirect_dir) and files whose data lies elsewhere (metacopy) are errdefs.ErrNotImplemented.
func (l *Layers) Open(name string) (io.ReadCloser, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open in image", Path: name, Err: err}
	}
	return f, nil
}

func (l *Layers) open(name string) (*os.File, error) {
	level, file, err := l.walk(name)
	if err != nil {
		return nil, err
	}
	if file == nil {
		level.close()
		return nil, notRegular("a directory")
	}
	defer file.Close()
	return reopen(file)
}

// walk gives what a name leads to: a directory, or something else, opened with O_PATH.
func (l *Layers) walk(name string) (merged, *os.File, error) {
	todo := split(name)
	var done []string // directories that were walked, none of them a link
	level, err := l.root()
	if err != nil {
		return nil, nil, err
	}
	found := false
	defer func() {
		if !found {
			level.close()
		}
	}()
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			done = done[:max(0, len(done)-1)]
			if level, err = l.again(level, done); err != nil {
				return nil, nil, err
			}
			continue
		}
		next, file, err := level.look(part)
		switch {
		case err != nil:
			return nil, nil, err
		case next != nil:
			level.close()
			level, done = next, append(done, part)
			continue
		}
		target, err := linkTarget(file)
		if err != nil {
			file.Close()
			return nil, nil, err
		}
		if target == "" {
			if len(todo) > 0 {
				file.Close()
				return nil, nil, unix.ENOTDIR
			}
			return nil, file, nil
		}
		file.Close()
		if links++; links > maxLinks || len(todo) > maxParts {
			return nil, nil, unix.ELOOP
		}
		if path.IsAbs(target) {
			done = nil
			if level, err = l.again(level, done); err != nil {
				return nil, nil, err
			}
		}
		todo = append(split(target), todo...)
	}
	found = true
	return level, nil, nil
}

// Dirs gives the directories of the host that name, a directory, is made of, the top one first. Links are followed
// and errors are those of Open, but that anything but a directory is errdefs.ErrInvalidArgument.
func (l *Layers) Dirs(name string) (dirs []string, err error) {
	level, file, err := l.walk(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open in image", Path: name, Err: err}
	}
	if file != nil {
		file.Close()
		return nil, &fs.PathError{Op: "open in image", Path: name, Err: fmt.Errorf("it is not a directory: %w", errdefs.ErrInvalidArgument)}
	}
	defer level.close()
	for _, d := range level {
		dir, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(d.Fd())))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// File gives where on the host name is, a regular file. Links are followed and errors are those of Open.
func (l *Layers) File(name string) (string, error) {
	f, err := l.open(name)
	if err != nil {
		return "", &fs.PathError{Op: "open in image", Path: name, Err: err}
	}
	defer f.Close()
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
}

// split gives the parts of a path without empty ones and ".".
func split(name string) []string {
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts
}

func notRegular(what string) error {
	return fmt.Errorf("it is %s, not a regular file: %w", what, errdefs.ErrInvalidArgument)
}

// merged is one directory of the merged tree: the directories of the layers that make it up, the top one
// first.
type merged []*os.File

func (m merged) close() {
	for _, d := range m {
		d.Close()
	}
}

func (l *Layers) root() (merged, error) {
	var m merged
	for _, dir := range l.dirs {
		d, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			m.close()
			return nil, err
		}
		m = append(m, d)
	}
	return m, nil
}

// again closes level and walks from the root to a directory that was walked before. What has become
// something else meanwhile is not there: a link that took its place is not followed.
func (l *Layers) again(level merged, parts []string) (merged, error) {
	level.close()
	level, err := l.root()
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		next, file, err := level.look(part)
		level.close()
		if err != nil {
			return nil, err
		}
		if file != nil {
			file.Close()
			return nil, unix.ENOTDIR
		}
		level = next
	}
	return level, nil
}

// look finds a name in a merged directory: either a directory, or something else, opened with O_PATH.
// The name is one part and never "..", so nothing outside the layers is reached, also in a race.
func (m merged) look(part string) (_ merged, _ *os.File, err error) {
	var dirs merged
	defer func() {
		if err != nil {
			dirs.close()
		}
	}()
	for _, parent := range m {
		f, st, err := openat(parent, part, unix.O_PATH)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if !isDir {
			whiteout := st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
			if whiteout || dirs != nil {
				// A directory above hides what is not one.
				f.Close()
				break
			}
			return nil, f, nil
		}
		f.Close()
		// Attributes cannot be read through O_PATH.
		d, _, err := openat(parent, part, unix.O_DIRECTORY)
		if err != nil {
			return nil, nil, err
		}
		dirs = append(dirs, d)
		opaque, err := opaque(d)
		if err != nil {
			return nil, nil, err
		}
		if opaque {
			break
		}
	}
	if dirs == nil {
		return nil, nil, unix.ENOENT
	}
	return dirs, nil, nil
}

func openat(parent *os.File, part string, flags int) (*os.File, *unix.Stat_t, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(parent.Fd()), part, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), part), &st, nil
}

func retry(fn func() (int, error)) (int, error) {
	for {
		if n, err := fn(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// attr reads an overlay attribute, which the kernel names after the mount's options.
func attr(fd int, name string) (value string, there bool, err error) {
	for _, class := range []string{"trusted", "user"} {
		var b [256]byte
		n, err := unix.Fgetxattr(fd, class+".overlay."+name, b[:])
		switch {
		case err == nil:
			return string(b[:n]), true, nil
		case errors.Is(err, unix.ERANGE):
			return "", true, nil
		case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM):
		default:
			return "", false, err
		}
	}
	return "", false, nil
}

func opaque(d *os.File) (bool, error) {
	if _, moved, err := attr(int(d.Fd()), "redirect"); err != nil {
		return false, err
	} else if moved {
		return false, fmt.Errorf("the overlay attribute redirect is not followed: %w", errdefs.ErrNotImplemented)
	}
	v, _, err := attr(int(d.Fd()), "opaque")
	return v == "y", err
}

// linkTarget reads a symbolic link that was opened with O_PATH; "" when it is not one.
func linkTarget(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", b)
	if err != nil {
		return "", err
	}
	if n == 0 || n == len(b) {
		return "", unix.ENAMETOOLONG
	}
	return string(b[:n]), nil
}

// reopen opens the very inode of an O_PATH descriptor for reading, after it has proved to be a regular
// file: opening a device or a FIFO can block or act.
func reopen(f *os.File) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, notRegular(kindOf(st.Mode))
	}
	r, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	if _, there, err := attr(int(r.Fd()), "metacopy"); err != nil || there {
		r.Close()
		if err == nil {
			err = fmt.Errorf("the overlay attribute metacopy is not followed: %w", errdefs.ErrNotImplemented)
		}
		return nil, err
	}
	return r, nil
}

func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	case unix.S_IFDIR:
		return "a directory"
	}
	return "something else"
}
