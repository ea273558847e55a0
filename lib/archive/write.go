// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/tail"
)

// tarball writes an archive into a tar.
type tarball struct {
	tar  *tar.Writer
	time time.Time
}

// writeTar writes an archive whose content fn writes. After an error of fn the archive has no end.
func writeTar(w io.Writer, at time.Time, fn func(*tarball) error) error {
	buf := bufio.NewWriterSize(w, piece)
	if at.IsZero() {
		at = time.Unix(0, 0)
	}
	t := &tarball{tar.NewWriter(buf), at}
	if err := fn(t); err != nil {
		return err
	}
	if err := t.tar.Close(); err != nil {
		return err
	}
	return buf.Flush()
}

func (t *tarball) dir(name string) error {
	return t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: t.time})
}

func (t *tarball) file(name string, size int64, r io.Reader) error {
	if err := t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: size, ModTime: t.time}); err != nil {
		return err
	}
	n, err := io.Copy(t.tar, r)
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes instead of %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	return err
}

// tree writes an archive into a directory.
type tree struct {
	path string
	time time.Time
}

// newDir makes a directory whose content fn writes. It has its name when all is in it.
func newDir(path string, at time.Time, fn func(*tree) error) (err error) {
	path = filepath.Clean(path)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		if err == nil {
			err = &os.PathError{Op: "mkdir", Path: path, Err: unix.EEXIST}
		}
		return err
	}
	t := &tree{filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()[:8]), at}
	if err := os.Mkdir(t.path, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(t.path))
		}
	}()
	if err := fn(t); err != nil {
		return err
	}
	if err := syncAll(t.path); err != nil {
		return err
	}
	crash.Point("archive.tree-written")
	if err := unix.Renameat2(unix.AT_FDCWD, t.path, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: t.path, New: path, Err: err}
	}
	return state.SyncDir(filepath.Dir(path))
}

func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(state.SyncFS(f, dir), f.Close())
}

func (t *tree) dir(name string) error { return os.Mkdir(filepath.Join(t.path, name), 0o755) }

func (t *tree) file(name string, size int64, r io.Reader) (err error) {
	path := filepath.Join(t.path, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes instead of %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if t.time.IsZero() {
		return nil
	}
	return os.Chtimes(path, t.time, t.time)
}

// ToFile writes a file of a mode, less the umask, that has its name when all is in it and durable, so that a file of that name is whole. What is
// no regular file, a FIFO or a device, is written as it is, until ctx ends. After an error a file that was there is
// unchanged.
func ToFile(ctx context.Context, path string, mode fs.FileMode, fn func(io.Writer) error) (err error) {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		f, err := tail.Until(ctx, func() (*os.File, error) { return os.OpenFile(path, os.O_WRONLY, 0) })
		if err != nil {
			return err
		}
		return errors.Join(fn(tail.Writer(ctx, f)), f.Close())
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // a link to the file stays a link
	}
	dir := filepath.Dir(path)
	f, err := os.OpenFile(dir, os.O_WRONLY|unix.O_TMPFILE, mode)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		return toNamed(path, mode, fn)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fn(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	crash.Point("archive.file-written")
	name := beside(path)
	from := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: from, New: name, Err: err}
	}
	crash.Point("archive.file-linked")
	return rename(name, path)
}

// toNamed is ToFile on a file system that has no files without a name.
func toNamed(path string, mode fs.FileMode, fn func(io.Writer) error) (err error) {
	name := beside(path)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	err = fn(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return rename(name, path)
}

// beside is a name in the directory of path that nobody has.
func beside(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()[:8])
}

// rename gives a file its name.
func rename(name, path string) error {
	if err := os.Rename(name, path); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return state.SyncDir(filepath.Dir(path))
}
