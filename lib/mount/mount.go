// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Mount is one mount, as containerd's api/types/mount.proto describes it.
type Mount struct {
	Type    string   `json:"type,omitempty"` // a file system, or bind
	Source  string   `json:"source,omitempty"`
	Target  string   `json:"target,omitempty"` // below the target that All is given; empty: that itself
	Options []string `json:"options,omitempty"`
}

// All mounts everything at target, in order. When one fails, those before it are unmounted. The target
// must exist (a directory, or a file for the bind mount of a file) and be no symbolic link.
//
// A list in which a type begins with "format/" is one mount at target: see [Fill] for how the last of them names the others.
func All(mounts []Mount, target string) error {
	if IsFormatted(mounts) {
		return formatted(mounts, target)
	}
	for i, m := range mounts {
		err := one(m, target)
		if err == nil {
			continue
		}
		for j := i - 1; j >= 0; j-- {
			at := filepath.Join(target, filepath.Join("/", mounts[j].Target))
			err = errors.Join(err, unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
		}
		return err
	}
	return nil
}

func one(m Mount, target string) error {
	p, err := parse(m.Options)
	if err != nil {
		return err
	}
	at, err := openTarget(target, m.Target)
	if err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Type, filepath.Join(target, m.Target), err)
	}
	defer at.Close()
	if m.Type == "bind" || m.Type == "rbind" {
		p.flags |= unix.MS_BIND
		if m.Type == "rbind" {
			p.flags |= unix.MS_REC
		}
	}
	// Linux 6.12 mounts an image of erofs from the file, which spares a device.
	fromFile := m.Type == "erofs" && p.loop && plain(m.Source, procPath(at), m.Type, p.flags, p.data) == nil
	if p.loop && p.flags&unix.MS_BIND == 0 && !fromFile {
		l, err := OpenLoop(m.Source, p.flags&unix.MS_RDONLY != 0, "")
		if err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.Type, at.Name(), err)
		}
		defer l.Close() // the mount keeps it
		m.Source = l.Path()
	}
	switch {
	case fromFile:
	case p.flags&unix.MS_BIND != 0 && !p.ids.none():
		err = bindMapped(m.Source, at, p.ids)
	case m.Type != "overlay" && !p.ids.none():
		err = fmt.Errorf("uidmap and gidmap of what is neither an overlay nor a bind mount: %w", errdefs.ErrNotImplemented)
	case p.flags&unix.MS_BIND != 0 && p.flags&unix.MS_REMOUNT == 0:
		err = unix.Mount(m.Source, procPath(at), "", p.flags&(unix.MS_BIND|unix.MS_REC), "")
	case m.Type == "overlay" && !p.ids.none():
		err = overlayMapped(m.Source, at.Name(), at, p.flags, p.data, p.ids)
		if errdefs.IsNotImplemented(err) {
			err = overlayShifted(m.Source, at, p.flags, p.data, p.ids)
		}
	case m.Type == "overlay":
		err = overlay(m.Source, at, p.flags, p.data)
	default:
		err = plain(m.Source, procPath(at), m.Type, p.flags, p.data)
	}
	if err != nil {
		return fmt.Errorf("mount %s %q at %s: %w", m.Type, m.Source, at.Name(), err)
	}
	if m.Type == "overlay" && p.flags&(unix.MS_RDONLY|unix.MS_REMOUNT) == 0 {
		err = writable(m, target, p.data)
	}
	if err == nil {
		err = change(m, target, p)
	}
	if err != nil {
		// Half of a mount (writable, say) must not stay.
		return errors.Join(fmt.Errorf("mount %s %q at %s: %w", m.Type, m.Source, at.Name(), err),
			unix.Unmount(at.Name(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
	}
	return nil
}

// change does what the kernel does only to something that is mounted already.
func change(m Mount, target string, p parsed) error {
	const once = unix.MS_BIND | unix.MS_REC | unix.MS_REMOUNT
	bound := p.flags&unix.MS_BIND != 0 && p.flags&^once != 0
	if !bound && !p.recursiveRO && p.propagation == 0 {
		return nil
	}
	at, err := openTarget(target, m.Target) // the mount this time, not what lies below it
	if err != nil {
		return err
	}
	defer at.Close()
	if bound {
		if err := rebind(procPath(at), p.flags&^uintptr(once)); err != nil {
			return err
		}
	}
	if p.recursiveRO {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		err := unix.MountSetattr(int(at.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
		if errors.Is(err, unix.ENOSYS) {
			err = fmt.Errorf("mount option rro needs Linux 5.12: %w", errdefs.ErrNotImplemented)
		}
		if err != nil {
			return err
		}
	}
	if p.propagation != 0 {
		if err := unix.Mount("", procPath(at), "", p.propagation, ""); err != nil {
			return fmt.Errorf("propagation: %w", err)
		}
	}
	return nil
}

// rebind sets the flags of a bind mount. In a user namespace the flags that the source has may not be
// taken away, so they are kept then.
func rebind(at string, flags uintptr) error {
	err := unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	var st unix.Statfs_t
	if serr := unix.Statfs(at, &st); serr != nil {
		return err
	}
	// The ST_ flags of statfs have the values of the MS_ flags, but for relatime.
	const locked = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME
	flags |= uintptr(st.Flags) & locked
	if st.Flags&unix.ST_RELATIME != 0 {
		flags |= unix.MS_RELATIME
	}
	return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
}

// openTarget opens the place to mount at. What lies below target may have been made by an image, so a
// symbolic link there does not lead out of target.
func openTarget(target, below string) (*os.File, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	name := target
	var f *os.File
	if rel := filepath.Join("/", below)[1:]; rel != "" {
		root, err := os.OpenRoot(target)
		if err != nil {
			return nil, err
		}
		defer root.Close()
		if f, err = root.OpenFile(rel, flags, 0); err != nil {
			return nil, err
		}
		name = filepath.Join(target, rel)
	} else {
		fd, err := unix.Open(target, flags, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: target, Err: err}
		}
		f = os.NewFile(uintptr(fd), target)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		f.Close()
		return nil, fmt.Errorf("%s is a symbolic link: %w", name, errdefs.ErrFailedPrecondition)
	}
	return f, nil
}

func procPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// Unmount unmounts whatever is mounted at target, one above the other, until nothing is. flags are those
// of umount2(2), such as unix.MNT_DETACH. A target that is not there or where nothing is mounted is
// success; one in use is errdefs.ErrFailedPrecondition.
func Unmount(target string, flags int) error {
	for {
		if more, err := UnmountTop(target, flags); !more || err != nil {
			return err
		}
	}
}

// UnmountTop is Unmount for the topmost mount alone; it reports false when there was none.
func UnmountTop(target string, flags int) (bool, error) {
	for {
		err := unix.Unmount(target, flags|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
			return false, nil
		case errors.Is(err, unix.EINVAL):
			// Nothing is mounted there; or the mount is locked by another user namespace.
			if mounted, merr := Mounted(target); merr == nil && !mounted {
				return false, nil
			}
		case errors.Is(err, unix.EBUSY):
			err = fmt.Errorf("in use: %w: %w", err, errdefs.ErrFailedPrecondition)
		}
		return false, fmt.Errorf("unmount %s: %w", target, err)
	}
}
