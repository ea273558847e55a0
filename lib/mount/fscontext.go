// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxValue is what fsconfig(2) takes of a string, with the NUL at its end.
const maxValue = 256

// byDescriptor hands the layers over as descriptors (Linux 6.13): /proc/self/mountinfo has their paths.
func byDescriptor(source string, at *os.File, flags uintptr, s *stack) error {
	return withContext(source, at, flags, s, func(fs int, l layer) error {
		return unix.FsconfigSetFd(fs, l.key, int(l.file.Fd()))
	})
}

// byName hands the layers over by their paths (Linux 6.7). The kernel undoes escapes in upperdir and workdir, and
// in no other layer.
func byName(source string, at *os.File, flags uintptr, s *stack) error {
	return withContext(source, at, flags, s, func(fs int, l layer) error {
		path := l.path
		if l.key == "upperdir" || l.key == "workdir" {
			path = Escape(path)
		}
		if len(path) >= maxValue {
			return unix.EINVAL
		}
		return unix.FsconfigSetString(fs, l.key, path)
	})
}

// withContext mounts an overlay with a file system context, to which add adds each layer.
func withContext(source string, at *os.File, flags uintptr, s *stack, add func(fs int, l layer) error) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	explain := func(what string, err error) error {
		return fmt.Errorf("overlay: %s: %w%s", what, err, complaints(fs))
	}
	if len(source) < maxValue { // it is a name for /proc/self/mountinfo alone
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return explain("source", err)
		}
	}
	sb, attrs := split(flags)
	for _, o := range append(sb, s.rest...) {
		key, value, hasValue := strings.Cut(o, "=")
		if hasValue {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return explain("option "+o, err)
		}
	}
	for _, l := range s.layers {
		if err := add(fs, l); err != nil {
			return explain(l.key+" "+l.path, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return explain("create", err)
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return explain("fsmount", err)
	}
	defer unix.Close(m)
	return attach(m, at)
}

// attach puts a detached mount at an open directory.
func attach(mount int, at *os.File) error {
	err := unix.MoveMount(mount, "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

// split gives the flags of mount(2) as options of a file system and as attributes of a mount.
func split(flags uintptr) (sb []string, attrs int) {
	for _, f := range []struct {
		flag uintptr
		word string
		attr int
	}{
		{unix.MS_RDONLY, "ro", unix.MOUNT_ATTR_RDONLY},
		{unix.MS_SYNCHRONOUS, "sync", 0},
		{unix.MS_DIRSYNC, "dirsync", 0},
		{unix.MS_MANDLOCK, "mand", 0},
		{unix.MS_LAZYTIME, "lazytime", 0},
		{unix.MS_NOSUID, "", unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, "", unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, "", unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NOATIME, "", unix.MOUNT_ATTR_NOATIME},
		{unix.MS_STRICTATIME, "", unix.MOUNT_ATTR_STRICTATIME},
		{unix.MS_NODIRATIME, "", unix.MOUNT_ATTR_NODIRATIME},
	} {
		if flags&f.flag == 0 {
			continue
		}
		attrs |= f.attr
		if f.word != "" {
			sb = append(sb, f.word)
		}
	}
	return sb, attrs
}

// complaints reads what the kernel has noted in a file system context.
func complaints(fs int) string {
	var all strings.Builder
	buf := make([]byte, 512)
	for {
		n, err := unix.Read(fs, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return all.String()
		}
		_, text, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " ") // behind its severity
		all.WriteString(": " + text)
	}
}
