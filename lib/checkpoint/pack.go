// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Bounds of a checkpoint: criu writes some files a process.
const (
	maxFiles = 100_000
	maxBytes = 1 << 40
)

// epoch is the time of every file of an archive: the same checkpoint gives the same bytes.
var epoch = time.Unix(0, 0)

// Pack writes the files of a directory of criu's as a tar archive, as containerd has it.
func Pack(ctx context.Context, w io.Writer, dir string) error {
	tw := tar.NewWriter(w)
	if err := packDir(ctx, tw, dir, ""); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return tw.Close()
}

// packDir writes the files of a directory, but no directory in it, under names that begin with prefix.
func packDir(ctx context.Context, tw *tar.Writer, dir, prefix string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if e.IsDir() {
			continue
		}
		if err := packFile(tw, root, e.Name(), prefix); err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	return nil
}

func packFile(tw *tar.Writer, root *os.Root, name, prefix string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("it is no file, and a checkpoint that adds to another one is no image: %w", errdefs.ErrInvalidArgument)
	}
	if err := tw.WriteHeader(&tar.Header{Name: prefix + name, Mode: 0o600, Size: st.Size(), ModTime: epoch, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(tw, io.LimitReader(f, st.Size()))
	return err
}

// Unpack makes the files of such an archive in a directory. The archive may be anybody's: an entry that is no file of the
// directory itself, or has holes, is errdefs.ErrInvalidArgument, and nothing is written elsewhere.
func Unpack(ctx context.Context, r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	tr := tar.NewReader(r)
	var files, size int64
	for {
		h, err := tr.Next()
		if err == io.EOF {
			if files == 0 {
				return fmt.Errorf("checkpoint: it is empty: %w", errdefs.ErrInvalidArgument)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("checkpoint: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		name := path.Clean(h.Name)
		if name == "." && h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg || strings.Contains(name, "/") || name == "." || name == ".." {
			return fmt.Errorf("checkpoint: %.200q is no file of its directory: %w", h.Name, errdefs.ErrInvalidArgument)
		}
		if isSparse(h) {
			return fmt.Errorf("checkpoint: %.200q has holes, and criu's files have none: %w", h.Name, errdefs.ErrInvalidArgument)
		}
		if files, size = files+1, size+h.Size; files > maxFiles || size > maxBytes {
			return fmt.Errorf("checkpoint: it is too large: %w", errdefs.ErrInvalidArgument)
		}
		if err := unpackFile(root, name, tr); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
}

// isSparse tells whether an entry is larger than its bytes in the archive, so that a small one could fill the disk.
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

func unpackFile(root *os.Root, name string, r io.Reader) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%.200q is there twice: %w", name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%.200q is cut short: %w", name, errdefs.ErrInvalidArgument)
	}
	return errors.Join(err, f.Close())
}
