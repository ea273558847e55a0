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
	id, err := mountID(path, 0)
	if err != nil {
		return "", err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("mount point of %s: %w", path, err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadString('\n')
		fields := strings.SplitN(line, " ", 6) // id, parent, device, root, mount point, ...
		if len(fields) == 6 && fields[0] == strconv.Itoa(id) {
			return unoctal(fields[4]), nil
		}
		if err != nil {
			return "", fmt.Errorf("mount point of %s: mount %d is not in /proc/self/mountinfo", path, id)
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

// At lists the mount points, in this mount namespace, that write to a directory: bind mounts of it, and
// overlays with it as the upper directory.
func At(dir string) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); errors.Is(err, unix.ENOENT) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("mounts of %s: %w", dir, err)
	}
	on, err := mountID(dir, 0)
	if err != nil {
		return nil, err
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("mounts of %s: %w", dir, err)
	}
	// id, parent, device, root, mount point, options, optional fields..., "-", type, source, super options
	device, root := "", ""
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 5 && f[0] == strconv.Itoa(on) {
			if rel, ok := strings.CutPrefix(filepath.Clean(dir), strings.TrimSuffix(unoctal(f[4]), "/")); ok {
				device, root = f[2], filepath.Join(unoctal(f[3]), rel)
			}
		}
	}
	var at []string
	for line := range strings.Lines(string(info)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[0] == strconv.Itoa(on) {
			continue
		}
		if f[2] == device && unoctal(f[3]) == root || slices.Contains(superOptions(f[len(f)-1]), "upperdir="+dir) {
			at = append(at, unoctal(f[4]))
		}
	}
	return at, nil
}

// superOptions splits the options of a file system at the commas that no backslash escapes, and undoes
// the escapes of the kernel and those of [Escape].
func superOptions(s string) []string {
	s = unoctal(s)
	var all []string
	start := 0
	for i := 0; i <= len(s); i++ {
		switch {
		case i == len(s) || s[i] == ',':
			all = append(all, unescape(s[start:i]))
			start = i + 1
		case s[i] == '\\':
			i++
		}
	}
	return all
}
