// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/mount"
)

// prefixMkfs begins the options that mkfs takes: size=SIZE, fs=TYPE, uuid=UUID.
const prefixMkfs = "X-containerd.mkfs."

// image is a file with a file system that is to be made.
type image struct {
	size     int64
	fs, uuid string
}

// mkfs makes the file that is the source of a mount, with a file system in it, if it is not there.
func mkfs(ctx context.Context, t transform, m mount.Mount, _ []Active) (mount.Mount, error) {
	i := image{fs: "ext4"}
	var rest []string
	for _, o := range m.Options {
		what, ok := strings.CutPrefix(o, prefixMkfs)
		if !ok {
			rest = append(rest, o)
			continue
		}
		key, value, _ := strings.Cut(what, "=")
		var err error
		switch key {
		case "size":
			i.size, err = units.RAMInBytes(value)
		case "fs":
			i.fs = value
		case "uuid":
			i.uuid = value
		default:
			err = errors.New("no such option")
		}
		if err != nil {
			return m, fmt.Errorf("%q: %w: %w", o, err, errdefs.ErrInvalidArgument)
		}
	}
	m.Options = rest
	return m, t.makeImage(ctx, m.Source, i)
}

// command is the program that makes the file system, and its arguments but the file.
func (i image) command() ([]string, error) {
	switch i.fs {
	case "ext2", "ext3", "ext4":
		words := []string{"mkfs." + i.fs, "-q", "-F"}
		if i.uuid != "" {
			words = append(words, "-U", i.uuid)
		}
		return words, nil
	case "xfs":
		words := []string{"mkfs.xfs", "-q"}
		if i.uuid != "" {
			words = append(words, "-m", "uuid="+i.uuid)
		}
		return words, nil
	}
	return nil, fmt.Errorf("%q is none of ext2, ext3, ext4, xfs: %w", i.fs, errdefs.ErrInvalidArgument)
}

// makeImage makes the file under no name, and gives it its name when it is whole.
func (t transform) makeImage(ctx context.Context, path string, i image) error {
	words, err := i.command()
	if err != nil {
		return err
	}
	if i.size <= 0 {
		return fmt.Errorf("want the option %ssize: %w", prefixMkfs, errdefs.ErrInvalidArgument)
	}
	root, below, err := t.within(path)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Stat(below); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	dir, err := root.Open(filepath.Dir(below))
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return fmt.Errorf("make a file in %s: %w", filepath.Dir(path), err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := f.Truncate(i.size); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, words[0], append(words[1:], "/proc/self/fd/3")...)
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
		}
		return fmt.Errorf("%s of %s: %w: %.500s", words[0], path, err, strings.TrimSpace(string(out)))
	}
	err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), int(dir.Fd()), filepath.Base(below), unix.AT_SYMLINK_FOLLOW)
	if err != nil && !errors.Is(err, unix.EEXIST) { // somebody else was faster
		return &os.PathError{Op: "link", Path: path, Err: err}
	}
	crash.Point("activation.image-made")
	return nil
}
