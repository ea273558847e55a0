// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxPath    = 4096 // PATH_MAX
	maxName    = 255  // NAME_MAX
	maxLinks   = 40   // as the kernel
	maxOpen    = 64   // descriptors of directories kept open
	dirFlags   = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	createMode = 0o700 // of a directory until finish gives it its own
)

// tree reaches the directories below one root by descriptors. The name of a directory is its real path
// from the root, without symbolic links, "" for the root itself.
type tree struct {
	root *os.Root
	top  *os.File
	open map[string]*list.Element // of *openDir
	used list.List                // the last used one first
}

type openDir struct {
	path string
	fd   int
}

func newTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	top, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	return &tree{root: root, top: top, open: map[string]*list.Element{}}, nil
}

func (t *tree) close() {
	t.forget("")
	t.top.Close()
	t.root.Close()
}

// fd gives the descriptor of a directory. It stays open until 63 others were asked for.
func (t *tree) fd(path string) (int, error) {
	if path == "" {
		return int(t.top.Fd()), nil
	}
	if e := t.open[path]; e != nil {
		t.used.MoveToFront(e)
		return e.Value.(*openDir).fd, nil
	}
	parent, base := split(path)
	pfd, err := t.fd(parent)
	if err != nil {
		return -1, err
	}
	fd, err := openat(pfd, base, dirFlags, 0)
	if err != nil {
		return -1, err
	}
	if t.used.Len() == maxOpen {
		t.drop(t.used.Back())
	}
	t.open[path] = t.used.PushFront(&openDir{path, fd})
	return fd, nil
}

func (t *tree) drop(e *list.Element) {
	d := t.used.Remove(e).(*openDir)
	delete(t.open, d.path)
	unix.Close(d.fd)
}

// forget closes a directory and all below it.
func (t *tree) forget(path string) {
	for p, e := range t.open {
		if path == "" || p == path || strings.HasPrefix(p, path+"/") {
			t.drop(e)
		}
	}
}

// resolve walks a clean relative path, of which every component must be a directory or lead to one by
// symbolic links, which cannot leave the root. missing is called for a directory that is not there: it
// makes it or gives an error. stands is called likewise where something else stands.
func (t *tree) resolve(path string, missing, stands func(pfd int, real string) error) (string, error) {
	if path == "" || t.open[path] != nil {
		return path, nil
	}
	real, rest, links, tries := "", path, 0, 0
	for steps := 0; rest != ""; steps++ {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			real, _ = split(real) // above the root is the root, as for chroot
			continue
		}
		next := join(real, name)
		if len(next) > maxPath || steps > maxPath {
			return "", invalid("path too long")
		}
		if _, err := t.fd(next); err == nil {
			real, tries = next, 0
			continue
		} else if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			return "", fmt.Errorf("open directory %q: %w", short(next), err)
		}
		if tries++; tries > 3 {
			return "", fmt.Errorf("%q is being changed by another process", short(next))
		}
		pfd, err := t.fd(real)
		if err != nil {
			return "", fmt.Errorf("open directory %q: %w", short(real), err)
		}
		target, err := t.look(pfd, name, next, missing, stands)
		if err != nil {
			return "", err
		}
		if target == "" {
			rest = join(name, rest) // made by now, or so it should be
			continue
		}
		if links++; links > maxLinks {
			return "", invalid("too many symbolic links on the way")
		}
		if tries = 0; target[0] == '/' {
			real = ""
		}
		rest = target + "/" + rest
	}
	return real, nil
}

// look finds out why name is no directory; it gives the target of a symbolic link.
func (t *tree) look(pfd int, name, real string, missing, stands func(int, string) error) (string, error) {
	var st unix.Stat_t
	err := unix.Fstatat(pfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "", missing(pfd, real)
	case err != nil:
		return "", fmt.Errorf("stat %q: %w", short(real), err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return "", nil // it has just become one
	case isWhiteout(&st):
		return "", stands(pfd, real)
	case st.Mode&unix.S_IFMT != unix.S_IFLNK:
		return "", invalid("%q is not a directory", short(real))
	}
	buf := make([]byte, maxPath)
	n, err := unix.Readlinkat(pfd, name, buf)
	if err != nil {
		return "", fmt.Errorf("read link %q: %w", short(real), err)
	}
	return string(buf[:n]), nil
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// split cuts the last component off.
func split(path string) (parent, base string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

func join(parent, base string) string {
	if parent == "" || base == "" {
		return parent + base
	}
	return parent + "/" + base
}

// openat is openat(2), again when a signal interrupts it.
func openat(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
