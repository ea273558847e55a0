// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// Mount is one mount as containerd describes it. Options are those of mount(8).
type Mount struct {
	Type    string   `json:"type"`
	Source  string   `json:"source"`
	Target  string   `json:"target,omitempty"` // below the place that the mounts are for
	Options []string `json:"options,omitempty"`
}

// All mounts in order at target, each at its own Target below it, which is never followed out of
// target. When one fails, those before it are undone.
func All(mounts []Mount, target string) error {
	var done []string
	for _, m := range mounts {
		at, err := securejoin.SecureJoin(target, m.Target)
		if err == nil {
			err = m.at(at)
		}
		if err != nil {
			for i := len(done) - 1; i >= 0; i-- {
				err = errors.Join(err, Unmount(done[i], unix.MNT_DETACH))
			}
			return err
		}
		done = append(done, at)
	}
	return nil
}

// at carries out one mount.
func (m Mount) at(target string) error {
	o, err := parse(m.Options)
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.Source, target, err)
	}
	fail := func(err error) error {
		return fmt.Errorf("mount %s %s on %s with %q: %w", m.Type, m.Source, target, strings.Join(m.Options, ","), err)
	}
	typ := m.Type
	if typ == "bind" || typ == "rbind" {
		typ = ""
		o.flags |= unix.MS_BIND
		if m.Type == "rbind" {
			o.flags |= unix.MS_REC
		}
	}
	first := o.flags
	if o.flags&unix.MS_BIND != 0 {
		first = o.flags & (unix.MS_BIND | unix.MS_REC)
	}
	if err := o.call(m.Source, target, typ, first); err != nil {
		return fail(err)
	}
	// A bind mount takes its other flags only when it is remounted.
	if o.flags&unix.MS_BIND != 0 && o.flags&^(unix.MS_BIND|unix.MS_REC) != 0 {
		err = unix.Mount("", target, "", o.flags&^unix.MS_REC|unix.MS_REMOUNT, "")
	}
	if err == nil && o.recursiveReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		err = unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &attr)
	}
	if err == nil && o.propagation != 0 {
		err = unix.Mount("", target, "", o.propagation, "")
	}
	if err != nil {
		return errors.Join(fail(err), Unmount(target, unix.MNT_DETACH))
	}
	return nil
}

type options struct {
	flags, propagation uintptr
	recursiveReadOnly  bool
	data               []string
}

var flagNames = map[string]struct {
	clear bool
	flag  uintptr
}{
	"async": {true, unix.MS_SYNCHRONOUS}, "atime": {true, unix.MS_NOATIME}, "bind": {false, unix.MS_BIND}, "defaults": {},
	"dev": {true, unix.MS_NODEV}, "diratime": {true, unix.MS_NODIRATIME}, "dirsync": {false, unix.MS_DIRSYNC}, "exec": {true, unix.MS_NOEXEC},
	"mand": {false, unix.MS_MANDLOCK}, "noatime": {false, unix.MS_NOATIME}, "nodev": {false, unix.MS_NODEV}, "nodiratime": {false, unix.MS_NODIRATIME},
	"noexec": {false, unix.MS_NOEXEC}, "nomand": {true, unix.MS_MANDLOCK}, "norelatime": {true, unix.MS_RELATIME}, "nostrictatime": {true, unix.MS_STRICTATIME},
	"nosuid": {false, unix.MS_NOSUID}, "rbind": {false, unix.MS_BIND | unix.MS_REC}, "relatime": {false, unix.MS_RELATIME}, "remount": {false, unix.MS_REMOUNT},
	"ro": {false, unix.MS_RDONLY}, "rw": {true, unix.MS_RDONLY}, "strictatime": {false, unix.MS_STRICTATIME}, "suid": {true, unix.MS_NOSUID},
	"sync": {false, unix.MS_SYNCHRONOUS},
}

var propagations = map[string]uintptr{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC, "shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC, "unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// parse sorts options into what mount(2) takes as flags and what the file system reads.
func parse(opts []string) (o options, err error) {
	for _, s := range opts {
		if strings.ContainsRune(s, 0) {
			return o, fmt.Errorf("option %q: %w", s, errdefs.ErrInvalidArgument)
		}
		if f, ok := flagNames[s]; ok {
			if f.clear {
				o.flags &^= f.flag
			} else {
				o.flags |= f.flag
			}
			continue
		}
		if p, ok := propagations[s]; ok {
			o.propagation = p
			continue
		}
		if s == "rro" {
			o.flags |= unix.MS_RDONLY
			o.recursiveReadOnly = true
			continue
		}
		o.data = append(o.data, s)
	}
	return o, nil
}

// call is mount(2). Its data may fill a page: the lower directories of a long overlay are then given
// relative to the directory that they share.
func (o options) call(source, target, typ string, flags uintptr) error {
	data := strings.Join(o.data, ",")
	if len(data) < os.Getpagesize()-1 {
		return unix.Mount(source, target, typ, flags, data)
	}
	if typ != "overlay" {
		return fmt.Errorf("options of %d bytes: %w", len(data), unix.E2BIG)
	}
	dir, data := relative(o.data)
	if len(data) >= os.Getpagesize()-1 {
		return fmt.Errorf("options of %d bytes: %w", len(data), unix.E2BIG)
	}
	return inDirectory(dir, func() error { return unix.Mount(source, target, typ, flags, data) })
}

// relative rewrites lowerdir relative to the longest directory that all lower directories lie in.
func relative(opts []string) (dir, data string) {
	var all []string
	for _, s := range opts {
		lower, ok := strings.CutPrefix(s, "lowerdir=")
		if !ok {
			all = append(all, s)
			continue
		}
		dirs := strings.Split(lower, ":")
		dir = filepath.Dir(dirs[0])
		for _, d := range dirs {
			for dir != "/" && !strings.HasPrefix(d, dir+"/") {
				dir = filepath.Dir(dir)
			}
		}
		for i, d := range dirs {
			dirs[i] = strings.TrimPrefix(strings.TrimPrefix(d, dir), "/")
		}
		all = append(all, "lowerdir="+strings.Join(dirs, ":"))
	}
	return dir, strings.Join(all, ",")
}

// inDirectory calls fn on a thread of its own whose working directory is dir. The thread ends with it.
func inDirectory(dir string, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chdir(dir)
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}

// Unmount takes away everything that is mounted at target, with the flags of umount2(2). A target that
// is no mount point, or not there, is done.
func Unmount(target string, flags int) error {
	for {
		err := unix.Unmount(target, flags|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == unix.EINVAL, err == unix.ENOENT:
			return nil
		case err != nil && err != unix.EINTR:
			return &os.PathError{Op: "unmount", Path: target, Err: err}
		}
	}
}
