// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// idMaps are the options uidmap= and gidmap= of containerd's mounts: the owners of files in the lower directories of
// an overlay, or in a directory that is bound, are shown as those to which a user namespace maps them.
type idMaps struct {
	uids, gids []syscall.SysProcIDMap
}

func (m idMaps) none() bool { return len(m.uids) == 0 && len(m.gids) == 0 }

// parseIDMaps reads a list of CONTAINER:HOST:SIZE, separated by commas.
func parseIDMaps(text string) ([]syscall.SysProcIDMap, error) {
	var list []syscall.SysProcIDMap
	for part := range strings.SplitSeq(text, ",") {
		var n [3]uint64
		fields := strings.Split(part, ":")
		ok := len(fields) == len(n)
		for i := range n {
			if ok {
				var err error
				n[i], err = strconv.ParseUint(fields[i], 10, 32)
				ok = err == nil
			}
		}
		if !ok || n[2] == 0 {
			return nil, fmt.Errorf("mapping of ids %q: want CONTAINER:HOST:SIZE: %w", part, errdefs.ErrInvalidArgument)
		}
		list = append(list, syscall.SysProcIDMap{ContainerID: int(n[0]), HostID: int(n[1]), Size: int(n[2])})
	}
	return list, nil
}

// overlayMapped mounts an overlay whose lower directories are seen through a mapping of ids (Linux 5.19). target
// is the path of at.
func overlayMapped(source, target string, at *os.File, flags uintptr, data []string, m idMaps) error {
	target, err := filepath.Abs(target)
	if err != nil {
		return err
	}
	s, err := parseStack(data)
	if err != nil {
		return err
	}
	lower := s.layers[:s.lower]
	if len(lower) == 0 {
		return fmt.Errorf("uidmap and gidmap of an overlay without lowerdir: %w", errdefs.ErrInvalidArgument)
	}
	for _, l := range lower {
		if !filepath.IsAbs(l.path) {
			return fmt.Errorf("lower directory %q is not absolute: %w", l.path, errdefs.ErrInvalidArgument)
		}
	}
	dir := shared(lower)
	clone, err := mapMount(dir, m)
	if err != nil {
		return err
	}
	defer unix.Close(clone)
	// A lower directory is told by a path, so the clone needs a place in the tree until the overlay has taken its own
	// clones of it. The target has one: the overlay comes on top, is cloned, and takes the place of both.
	if err := attach(clone, at); err != nil {
		return fmt.Errorf("attach %s: %w", dir, err)
	}
	undo := func(n int) (err error) {
		for range n {
			err = errors.Join(err, unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
		}
		return err
	}
	for j := range lower {
		lower[j].path = filepath.Join(target, strings.TrimPrefix(filepath.Clean(lower[j].path), dir))
	}
	if err := s.mount(source, at, flags); err != nil {
		if errors.Is(err, unix.EINVAL) { // Linux 5.12 to 5.18 map mounts, and stack none that are mapped
			err = fmt.Errorf("%w: %w", err, errdefs.ErrNotImplemented)
		}
		return errors.Join(err, undo(1))
	}
	top, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err := errors.Join(err, undo(2)); err != nil {
		return err
	}
	defer unix.Close(top)
	return attach(top, at)
}

// bindMapped binds a directory with other owners. What is written there is kept with the owners that it would have without
// the mapping. Mounts below the directory stay out.
func bindMapped(source string, at *os.File, m idMaps) error {
	clone, err := mapMount(source, m)
	if err != nil {
		return err
	}
	defer unix.Close(clone)
	return attach(clone, at)
}

// CanMap tells whether a directory can be bound with other owners.
func CanMap(dir string) bool {
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	clone, err := mapMount(dir, idMaps{one, one})
	if err != nil {
		return false
	}
	unix.Close(clone)
	return true
}

// shared gives the deepest directory that has all of some layers below it. Their paths are absolute.
func shared(layers []layer) string {
	dir := filepath.Dir(filepath.Clean(layers[0].path))
	for _, l := range layers {
		for dir != "/" && !strings.HasPrefix(filepath.Clean(l.path), dir+"/") {
			dir = filepath.Dir(dir)
		}
	}
	return dir
}

// mapMount is mapped, but for a test.
var mapMount = mapped

// mapped clones the mount of a directory, detached, with other owners.
func mapped(dir string, m idMaps) (fd int, err error) {
	ns, err := userNamespace(m)
	if err != nil {
		return -1, err
	}
	defer ns.Close()
	fd, err = unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			err = fmt.Errorf("this kernel, or the file system, cannot map ids (Linux 5.19, ext4, xfs, btrfs): %w: %w", err, errdefs.ErrNotImplemented)
		}
		return -1, fmt.Errorf("map ids of %s: %w", dir, err)
	}
	return fd, nil
}

// userNamespace makes a user namespace with mappings. A process is needed to make one; it is stopped before its first
// instruction, and killed.
func userNamespace(m idMaps) (*os.File, error) {
	runtime.LockOSThread() // the tracer of a process is a thread
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess("/proc/self/exe", []string{"ids"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: m.uids, GidMappings: m.gids, Ptrace: true,
	}})
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	defer func() {
		p.Kill()
		p.Wait()
	}()
	return os.Open("/proc/" + strconv.Itoa(p.Pid) + "/ns/user")
}
