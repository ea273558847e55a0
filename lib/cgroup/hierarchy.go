// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/smallfile"
)

// hierarchy is one mounted cgroup tree.
type hierarchy struct {
	dir         string // its mount point
	v2          bool
	controllers []string // of v1: "memory", "cpu", "name=systemd" ...; empty for v2
}

// name is how /proc/PID/cgroup calls the hierarchy: by any of its controllers, and v2 by none.
func (h hierarchy) name() string {
	if h.v2 {
		return ""
	}
	return h.controllers[0]
}

// tree is a set of hierarchies that are looked at together.
type tree []hierarchy

// mounted is what this host has, read once: the mounts of a running host's cgroups do not change.
var mounted = sync.OnceValues(func() (tree, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	defer f.Close()
	t, err := parseMountinfo(f)
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	if len(t) == 0 {
		return nil, fmt.Errorf("find cgroup hierarchies: none is mounted: %w", errdefs.ErrUnavailable)
	}
	return t, nil
})

// defaultDir is where systemd, and every distribution with it, mounts cgroups.
const defaultDir = "/sys/fs/cgroup"

// parseMountinfo finds the cgroup mounts in the format of proc_pid_mountinfo(5), one for each
// hierarchy. A hierarchy may be mounted in several places, one of them a container's root
// filesystem; the one below defaultDir is the host's own.
func parseMountinfo(r io.Reader) (tree, error) {
	var t tree
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 4096), 1<<20)
	for in.Scan() {
		left, right, ok := strings.Cut(in.Text(), " - ")
		if !ok {
			continue
		}
		mount, super := strings.Fields(left), strings.Fields(right)
		if len(mount) < 6 || len(super) < 3 {
			continue
		}
		h := hierarchy{dir: unescape(mount[4])}
		switch super[0] {
		case "cgroup2":
			h.v2 = true
		case "cgroup":
			h.controllers = v1Controllers(super[2])
			if len(h.controllers) == 0 {
				continue
			}
		default:
			continue
		}
		t = t.with(h)
	}
	return t, in.Err()
}

// with adds h unless its hierarchy is there already, at a place that is as good.
func (t tree) with(h hierarchy) tree {
	below := func(dir string) bool { return dir == defaultDir || strings.HasPrefix(dir, defaultDir+"/") }
	for i, have := range t {
		if have.v2 != h.v2 || !slices.Equal(have.controllers, h.controllers) {
			continue
		}
		if below(h.dir) && !below(have.dir) {
			t[i] = h
		}
		return t
	}
	return append(t, h)
}

// v1Controllers picks the controllers, and the name of a named hierarchy, from v1 super options.
func v1Controllers(options string) []string {
	var list []string
	for o := range strings.SplitSeq(options, ",") {
		switch {
		case o == "rw", o == "ro", o == "noprefix", o == "clone_children", o == "xattr",
			o == "cpuset_v2_mode", o == "favordynmods", strings.HasPrefix(o, "release_agent="), o == "":
		default:
			list = append(list, o)
		}
	}
	slices.Sort(list)
	return list
}

// unescape undoes the octal escapes (\040 for a blank) of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// dirs gives the directories that path has where the hierarchy exists, present or not.
func (t tree) dirs(path string) []string {
	list := make([]string, len(t))
	for i, h := range t {
		list[i] = filepath.Join(h.dir, path)
	}
	return list
}

// v1 gives the directory of path in the v1 hierarchy that has the controller, or "".
func (t tree) v1(controller, path string) string {
	for _, h := range t {
		if slices.Contains(h.controllers, controller) {
			return filepath.Join(h.dir, path)
		}
	}
	return ""
}

// v2 gives the directory of path in the v2 hierarchy, or "".
func (t tree) v2(path string) string {
	for _, h := range t {
		if h.v2 {
			return filepath.Join(h.dir, path)
		}
	}
	return ""
}

// exists says whether path exists in any hierarchy.
func (t tree) exists(path string) bool {
	return slices.ContainsFunc(t.dirs(path), func(dir string) bool {
		var st unix.Stat_t
		return unix.Lstat(dir, &st) == nil
	})
}

// open is the start of every exported function: the hierarchies, and a path that is safe to join.
func open(path string) (tree, error) {
	if !filepath.IsAbs(path) || path == "/" || filepath.Clean(path) != path || strings.ContainsRune(path, 0) {
		return nil, fmt.Errorf("cgroup %q: want a clean absolute path below the root cgroup: %w", path, errdefs.ErrInvalidArgument)
	}
	return mounted()
}

// gone says that an error means the cgroup or the file is not there. The kernel answers ENODEV when a
// cgroup was removed between open and read.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// read gives a control file's text without the newline at its end; "" when it is not there.
func read(dir, name string) (string, error) {
	if dir == "" {
		return "", nil
	}
	b, err := smallfile.Read(dir + "/" + name)
	if gone(err) || errors.Is(err, unix.EOPNOTSUPP) {
		return "", nil
	}
	return strings.TrimSuffix(string(b), "\n"), err
}

// write writes a control file in one write. It never creates a file.
func write(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// walk calls fn for dir and every cgroup below it, children before parents. A cgroup that vanishes
// meanwhile is passed over.
func walk(dir string, fn func(dir string) error) error {
	below, err := children(dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range below {
		if err := walk(filepath.Join(dir, name), fn); err != nil {
			return err
		}
	}
	return fn(dir)
}

// children names the cgroups in one. Most have none, which the count of links tells without a listing of some fifty
// control files.
func children(dir string) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Nlink == 2 {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
