// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/btrfs"
)

// trashed is what this process has moved to the trash and not yet deleted.
type trashed struct {
	mu      sync.Mutex
	entries []string
}

// Trash moves a file or directory of either directory out of the way with one rename. EmptyTrash deletes it
// later, outside every lock. What is not there is trashed already. Where the file system has no room for
// the rename, what can be given up is given up, and in the last resort the path is deleted in its place.
func (d *Dir) Trash(path string) error {
	durable := !strings.HasPrefix(path, d.state+"/")
	bin := d.bin(durable)
	entry := filepath.Join(bin, rand.Text())
	err := unix.Rename(path, entry)
	if err == unix.ENOENT {
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err = unlessErrno(os.Mkdir(bin, 0o700), unix.EEXIST); err == nil {
			err = unix.Rename(path, entry)
		}
	}
	if noRoom(err) {
		d.giveUpReserve(durable)
		d.deleteAll()
		if err = unlessErrno(os.Mkdir(bin, 0o700), unix.EEXIST); err == nil {
			err = unix.Rename(path, entry)
		}
	}
	if noRoom(err) {
		return remove(path)
	}
	if err != nil {
		return fmt.Errorf("move %s to the trash: %w", path, err)
	}
	d.trashed.mu.Lock()
	defer d.trashed.mu.Unlock()
	d.trashed.entries = append(d.trashed.entries, entry)
	return nil
}

// bin is the trash of the root, or of the state directory.
func (d *Dir) bin(durable bool) string {
	if durable {
		return d.Path("trash")
	}
	return d.Run("trash")
}

// EmptyTrash deletes what this Dir has moved to the trash. What cannot be deleted stays there, and
// Config.Warn is told: the deed itself is done. No lock may be held.
func (d *Dir) EmptyTrash() {
	d.deleteOwn()
	d.restoreReserves()
}

// SweepTrash is EmptyTrash, and also deletes what killed processes have left in the trash, as far as
// possible: of others' entries the failures are not told.
func (d *Dir) SweepTrash() {
	d.deleteAll()
	d.restoreReserves()
}

func (d *Dir) deleteOwn() {
	d.trashed.mu.Lock()
	entries := d.trashed.entries
	d.trashed.entries = nil
	d.trashed.mu.Unlock()
	for _, e := range entries {
		if err := remove(e); err != nil {
			d.warn(fmt.Errorf("%s was removed, but cannot be deleted: %w", e, err))
		}
	}
}

func (d *Dir) deleteAll() {
	d.deleteOwn()
	for _, durable := range []bool{true, false} {
		bin := d.bin(durable)
		entries, _ := os.ReadDir(bin)
		for _, e := range entries {
			if isTrash(e.Name()) {
				_ = remove(filepath.Join(bin, e.Name()))
			}
		}
	}
}

// isTrash tells whether a name is one that Trash gives: of rand.Text.
func isTrash(name string) bool {
	return len(name) == 26 && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// Warn tells Config.Warn what went wrong beside a deed that was done; nil is nothing.
func (d *Dir) Warn(err error) {
	if err != nil {
		d.warn(err)
	}
}

func noRoom(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func unlessErrno(err error, ok unix.Errno) error {
	if errors.Is(err, ok) {
		return nil
	}
	return err
}

// remove deletes a file or directory and all that is in it, as far as possible, and returns the first
// error. It enters no mount: what is mounted there belongs to somebody else.
func remove(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return unlessErrno(err, unix.ENOENT)
	}
	defer dir.Close()
	mount, err := mountOf(dir)
	if err != nil {
		return err
	}
	return removeAt(dir, filepath.Base(path), path, mount)
}

func removeAt(dir *os.File, name, path string, mount uint64) error {
	at := int(dir.Fd())
	err := unix.Unlinkat(at, name, 0)
	if err != unix.EISDIR {
		return pathError("remove", path, err)
	}
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if m, err := mountOf(f); err != nil {
		return err
	} else if m != mount {
		return pathError("remove", path, unix.EBUSY)
	}
	if btrfs.IsSubvolume(f) {
		return removeSubvolume(dir, f, name, path, mount)
	}
	if err := removeIn(f, path, mount); err != nil {
		return err
	}
	return pathError("remove", path, unix.Unlinkat(at, name, unix.AT_REMOVEDIR))
}

// removeSubvolume deletes an open subvolume: at once where the kernel does that, and otherwise, when there are others in it or
// only the owner of the system may, file by file.
func removeSubvolume(dir, f *os.File, name, path string, mount uint64) error {
	if err := btrfs.Destroy(dir, name); err == nil || err == unix.ENOENT {
		return nil
	}
	if err := btrfs.Unprotect(f); err != nil {
		return err
	}
	if err := removeIn(f, path, mount); err != nil {
		return err
	}
	if err := btrfs.Destroy(dir, name); err == nil {
		return nil
	}
	return pathError("remove", path, unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR))
}

// removeIn deletes all that is in a directory. A listing may leave out names while others are deleted, so
// it begins again until it finds none.
func removeIn(dir *os.File, path string, mount uint64) error {
	for {
		var first error
		removed := 0
		for {
			names, err := dir.Readdirnames(1000)
			for _, name := range names {
				if err := removeAt(dir, name, filepath.Join(path, name), mount); err == nil {
					removed++
				} else if first == nil {
					first = err
				}
			}
			if err == io.EOF || errors.Is(err, unix.ENOENT) { // somebody else has deleted the directory
				break
			}
			if err != nil {
				return err
			}
		}
		if removed == 0 || first != nil {
			return first
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// pathError says what failed where; that a file is gone is no failure.
func pathError(op, path string, err error) error {
	if err == nil || err == unix.ENOENT {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// mountOf gives the number of the mount that an open file is in. Before Linux 5.8 only /proc tells it.
func mountOf(f *os.File) (uint64, error) {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	if err == nil && st.Mask&unix.STATX_MNT_ID != 0 {
		return st.Mnt_id, nil
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(info) {
		if id, ok := bytes.CutPrefix(line, []byte("mnt_id:")); ok {
			return strconv.ParseUint(string(bytes.TrimSpace(id)), 10, 64)
		}
	}
	return 0, fmt.Errorf("mount of %s: the kernel does not tell it", f.Name())
}
