// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Onto unpacks a layer onto a tree that others below may be a part of: see [Apply] for the stream, and [Merge] for
// overlaid and below. Of the result, Size and Inodes are those of the layer alone. The layer is unpacked beside the tree
// first, or in its root when that is on another file system; a kill leaves a directory .layer-* there. An error while it
// is unpacked leaves the tree as it was.
func Onto(ctx context.Context, r io.Reader, onto string, overlaid bool, below []string, opt Options) (res Result, err error) {
	var root unix.Stat_t // with the times that it is to have in the end
	if err := unix.Stat(onto, &root); err != nil {
		return res, &os.PathError{Op: "stat", Path: onto, Err: err}
	}
	stage, err := stageFor(onto)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, unstage(stage, onto, &root)) }()
	if res, err = Apply(ctx, r, stage, opt); err != nil {
		return res, err
	}
	err = Merge(ctx, stage, res.Implied, onto, overlaid, below...)
	return res, errors.Join(err, unix.Stat(onto, &root))
}

// unstage removes what stageFor made. Where that was in the tree's root, the root gets its times back.
func unstage(stage, onto string, root *unix.Stat_t) error {
	err := os.RemoveAll(stage)
	if err == nil && filepath.Dir(stage) == filepath.Clean(onto) {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, onto, []unix.Timespec{root.Atim, root.Mtim}, 0)
	}
	return err
}

// stageFor makes an empty directory with the attributes of a tree's root on the same file system, which a layer that has
// no entry for the root leaves as they are.
func stageFor(onto string) (string, error) {
	to, err := openat(unix.AT_FDCWD, onto, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open tree", Path: onto, Err: err}
	}
	defer unix.Close(to)
	var st, beside unix.Stat_t
	if err := unix.Fstat(to, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: onto, Err: err}
	}
	dir := filepath.Dir(filepath.Clean(onto))
	if err := unix.Stat(dir, &beside); err != nil || beside.Dev != st.Dev {
		dir = onto
	}
	stage, err := os.MkdirTemp(dir, ".layer-")
	if err != nil {
		return "", err
	}
	fd, err := openat(unix.AT_FDCWD, stage, dirFlags, 0)
	if err == nil {
		err = copyMeta(to, fd)
		unix.Close(fd)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("stage layer: %w", err), os.RemoveAll(stage))
	}
	return stage, nil
}
