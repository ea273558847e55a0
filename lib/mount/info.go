// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mounted tells whether something is mounted at path itself. It is false when path does not exist.
func Mounted(path string) (bool, error) {
	path = filepath.Clean(path)
	id, err := mountID(path, unix.O_NOFOLLOW)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if path == "/" {
		return true, nil
	}
	above, err := mountID(filepath.Dir(path), 0)
	if err != nil {
		return false, err
	}
	return id != above, nil
}

// Parent gives the mount point below which path, or what it is a link to, lies; it may be path itself.
func Parent(path string) (mountpoint string, err error) {
	fields, err := mountOf(path)
	if err != nil {
		return "", err
	}
	return unoctal(fields[4]), nil
}

// mountOf gives the fields of /proc/self/mountinfo of the mount that path, or what it is a link to, lies on: id,
// parent, device, root, mount point, options and at least one more.
func mountOf(path string) ([]string, error) {
	id, err := mountID(path, 0)
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("mount point of %s: %w", path, err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadString('\n')
		fields := strings.Fields(line)
		if len(fields) > 6 && fields[0] == strconv.Itoa(id) {
			return fields, nil
		}
		if err != nil {
			return nil, fmt.Errorf("mount point of %s: mount %d is not in /proc/self/mountinfo", path, id)
		}
	}
}

// mountID gives the id of the mount that path lies on. flags may have O_NOFOLLOW. The kernel tells it of
// any descriptor; statx does since 5.8 only.
func mountID(path string, flags int) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, fmt.Errorf("mount of %s: %w", path, err)
	}
	for line := range strings.Lines(string(info)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, fmt.Errorf("mount of %s: the kernel does not tell", path)
}

// unoctal undoes the escapes of space, tab, newline and backslash in /proc/self/mountinfo.
func unoctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
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

// entry is what At and From need of a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type entry struct {
	id, device, root, point, fstype, source string
	options                                 []string // of the file system, with overlayfs's own escapes
}

// overlaid tells whether one of the overlay's directories of that kind is accepted. Whether the kernel tells a
// path with the escapes of [Escape] or without depends on how it was given; both readings are tried.
func (e entry) overlaid(key string, accept func(path string) bool) bool {
	return slices.ContainsFunc(e.options, func(o string) bool {
		k, value, _ := strings.Cut(o, "=")
		if k == "lowerdir+" && key == "lowerdir" {
			k = key
		}
		if k != key {
			return false
		}
		return accept(value) || slices.ContainsFunc(splitLower(value), func(l layer) bool { return accept(l.path) })
	})
}

// table reads the mounts of this mount namespace, of those at one place the topmost last.
func table() ([]entry, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	return parseTable(string(info)), err
}

// parseTable leaves out lines that are not of the kernel's form.
func parseTable(info string) []entry {
	var all []entry
	for line := range strings.Lines(info) {
		// id, parent, device, root, mount point, options, optional fields..., "-", type, source, super options
		left, right, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		f, super := strings.Split(left, " "), strings.Split(right, " ")
		if len(f) < 6 || len(super) < 3 {
			continue
		}
		all = append(all, entry{
			id: f[0], device: f[2], root: unoctal(f[3]), point: unoctal(f[4]),
			fstype: super[0], source: unoctal(super[1]),
		})
		for o := range strings.SplitSeq(super[2], ",") {
			e := &all[len(all)-1]
			e.options = append(e.options, unoctal(o))
		}
	}
	return all
}

// locate tells on which device a directory lies, and at which path from the device's root.
func locate(all []entry, dir string) (on int, device, root string, err error) {
	if on, err = mountID(dir, 0); err != nil {
		return on, "", "", err
	}
	for _, e := range all {
		if e.id == strconv.Itoa(on) {
			if rel, ok := strings.CutPrefix(filepath.Clean(dir), strings.TrimSuffix(e.point, "/")); ok {
				device, root = e.device, filepath.Join(e.root, rel)
			}
		}
	}
	return on, device, root, nil
}

// From tells whether the topmost mount at target is of something in the directory tree: a bind mount, or
// an overlay that has a layer there or is named after one.
func From(target, tree string) (bool, error) {
	all, err := table()
	if err != nil {
		return false, fmt.Errorf("mount at %s: %w", target, err)
	}
	id, err := mountID(target, unix.O_NOFOLLOW)
	if err != nil {
		return false, err
	}
	_, device, root, err := locate(all, tree)
	if err != nil {
		return false, err
	}
	in := func(path, dir string) bool {
		return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	}
	for _, e := range all {
		if e.id != strconv.Itoa(id) {
			continue
		}
		if e.fstype != "overlay" {
			return e.device == device && in(e.root, root), nil
		}
		inTree := func(path string) bool { return in(path, tree) }
		return inTree(e.source) || e.overlaid("upperdir", inTree) || e.overlaid("lowerdir", inTree), nil
	}
	return false, nil
}

// At lists the mount points, in this mount namespace, of a directory: bind mounts of it, and overlays with
// it as the upper directory or named after it.
func At(dir string) ([]string, error) {
	dir = filepath.Clean(dir)
	real, err := filepath.EvalSymlinks(dir) // the kernel tells of directories by their own names
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("mounts of %s: %w", dir, err)
	}
	all, err := table()
	if err != nil {
		return nil, fmt.Errorf("mounts of %s: %w", dir, err)
	}
	on, device, root, err := locate(all, real)
	if err != nil {
		return nil, err
	}
	var at []string
	for _, e := range all {
		if e.id == strconv.Itoa(on) {
			continue
		}
		itself := func(path string) bool { return path == dir || path == real }
		if e.device == device && e.root == root || e.fstype == "overlay" && (e.source == dir || e.overlaid("upperdir", itself)) {
			at = append(at, e.point)
		}
	}
	return at, nil
}
