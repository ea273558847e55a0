// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// entries lists what is in the trash of both directories.
func entries(t *testing.T, d *state.Dir) (n int) {
	t.Helper()
	for _, bin := range []string{d.Path("trash"), d.Run("trash")} {
		all, err := os.ReadDir(bin)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		n += len(all)
	}
	return n
}

func trash(t *testing.T, d *state.Dir, path string) {
	t.Helper()
	if err := d.Trash(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", path, err)
	}
}

// Each deletes what it trashed itself, and a sweep what others left.
func TestTrash(t *testing.T) {
	d := fresh(t)
	other := open(t, d.Path(), d.Run())
	write(t, d.Path(), "a/b/c", "a/d")
	write(t, d.Run(), "x/y", "z")
	if err := os.Symlink(d.Path("a"), d.Run("x", "link")); err != nil {
		t.Fatal(err)
	}
	trash(t, other, d.Run("x"))
	trash(t, other, d.Run("z"))
	trash(t, d, d.Path("a", "d"))
	trash(t, d, d.Path("not there"))
	d.EmptyTrash()
	if n := entries(t, d); n != 2 {
		t.Errorf("%d entries of the other are there", n)
	}
	d.SweepTrash()
	if n := entries(t, d); n != 0 {
		t.Errorf("%d entries after a sweep", n)
	}
	if _, err := os.Stat(d.Path("a", "b", "c")); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
	trash(t, d, d.Path("a"))
	other.EmptyTrash()
	d.EmptyTrash()
	if n := entries(t, d); n != 0 {
		t.Errorf("%d entries at the end", n)
	}
}

// tmpfs mounts a small file system.
func tmpfs(t *testing.T, dir, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); errors.Is(err, unix.EPERM) {
		t.Skip("mounting needs CAP_SYS_ADMIN")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			t.Error(err)
		}
	})
}

// Two that delete one entry at once are no failure of either.
func TestEmptiedTwice(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	config := state.Config{Root: root, State: run, Warn: func(err error) { t.Error(err) }}
	for range 100 {
		d, err := state.Open(config)
		if err != nil {
			t.Fatal(err)
		}
		other, err := state.Open(config)
		if err != nil {
			t.Fatal(err)
		}
		write(t, run, "task/a/b/c", "task/a/d/e", "task/f/g", "task/h/i/j/k")
		trash(t, d, filepath.Join(run, "task"))
		var both sync.WaitGroup
		both.Go(other.SweepTrash)
		both.Go(d.EmptyTrash)
		both.Wait()
		if n := entries(t, d); n != 0 {
			t.Errorf("%d entries", n)
		}
	}
}

// An entry that cannot be deleted is told by the process that trashed it, once, and by no other. What is
// mounted in it is not touched, and goes on to be somebody else's.
func TestUndeletable(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	var told []string
	d, err := state.Open(state.Config{Root: root, State: run, Warn: func(err error) { told = append(told, err.Error()) }})
	if err != nil {
		t.Fatal(err)
	}
	other, err := state.Open(state.Config{Root: root, State: run, Warn: func(err error) { t.Error("told the other:", err) }})
	if err != nil {
		t.Fatal(err)
	}
	write(t, run, "task/a", "task/rootfs/b", "task/z/y")
	volume := t.TempDir()
	write(t, volume, "precious")
	mounted := filepath.Join(run, "task", "rootfs", "data")
	if err := os.Mkdir(mounted, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(volume, mounted, "", unix.MS_BIND, ""); errors.Is(err, unix.EPERM) {
		t.Skip("mounting needs CAP_SYS_ADMIN")
	} else if err != nil {
		t.Fatal(err)
	}
	trash(t, d, filepath.Join(run, "task"))
	left, _ := filepath.Glob(filepath.Join(run, "trash", "*", "rootfs", "data"))
	if len(left) != 1 {
		t.Fatalf("the mount is at %v", left)
	}
	defer unix.Unmount(left[0], unix.MNT_DETACH)
	d.EmptyTrash()
	if len(told) != 1 || !strings.Contains(told[0], "rootfs/data") {
		t.Errorf("told %q", told)
	}
	if _, err := os.Stat(filepath.Join(volume, "precious")); err != nil {
		t.Fatalf("the volume was emptied: %v", err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(left[0]), "b")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what could be deleted is there: %v", err)
	}
	write(t, run, "more")
	trash(t, d, filepath.Join(run, "more"))
	d.EmptyTrash()
	other.SweepTrash()
	if n := entries(t, d); n != 1 || len(told) != 1 {
		t.Errorf("%d entries, told %q", n, told)
	}
	if err := unix.Unmount(left[0], 0); err != nil {
		t.Fatal(err)
	}
	other.SweepTrash()
	if n := entries(t, d); n != 0 {
		t.Errorf("%d entries after the mount has gone", n)
	}
}

// release takes and releases the lock of a container.
func release(t *testing.T, d *state.Dir, name string) {
	t.Helper()
	l, err := d.Lock(t.Context(), nil, lock.Container, name, lock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
}

var filled int

// fill leaves no byte and no inode of a file system.
func fill(t *testing.T, dir string) {
	t.Helper()
	for {
		filled++
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("fill", filled)))
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{64 << 10, 1} {
			for err = nil; err == nil; {
				_, err = f.Write(make([]byte, size))
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
		}
		f.Close()
	}
}

// On a full file system everything can be removed, one thing after the other: locks are taken, the commit is
// made, the files go. Whatever room that makes is taken by others, but for the reserve.
func TestRemovalNeedsNoRoom(t *testing.T) {
	for _, full := range []string{"root", "state", "state without trash", "both"} {
		t.Run(full, func(t *testing.T) {
			root, run := filepath.Join(t.TempDir(), "m", "root"), filepath.Join(t.TempDir(), "m", "run")
			small := map[string][]string{"root": {root}, "both": {root, run}}[full]
			if small == nil {
				small = []string{run}
			}
			for _, dir := range small {
				tmpfs(t, filepath.Dir(dir), "size=4m,nr_inodes=400")
			}
			d := open(t, root, run)
			ctx := context.Background()
			updates := []func(context.Context, *lock.Lock, func(*state.Tx) error) error{d.Update, d.UpdateRun}
			const n = 100
			for i, update := range updates {
				err := update(ctx, nil, func(tx *state.Tx) error {
					var errs []error
					for k := range n {
						errs = append(errs, bump(tx, fmt.Sprintf("%s%d-%d", strings.Repeat("x", 300), i, k)))
					}
					return errors.Join(errs...)
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			release(t, d, "default/made")
			write(t, root, "snapshots/1/file")
			write(t, run, "tasks/1/file")
			if full == "state without trash" {
				os.Remove(d.Run("trash"))
			}
			for _, dir := range small {
				fill(t, filepath.Dir(dir))
			}
			for i, update := range updates {
				for k := range n {
					release(t, d, fmt.Sprint("default/", k))
					err := update(ctx, nil, func(tx *state.Tx) error {
						return things.Delete(tx, "default", fmt.Sprintf("%s%d-%d", strings.Repeat("x", 300), i, k))
					})
					if err != nil {
						t.Fatalf("removal %d: %v", k, err)
					}
					d.EmptyTrash() // as every removal ends
					for _, dir := range small {
						fill(t, filepath.Dir(dir))
					}
				}
			}
			trash(t, d, d.Path("snapshots", "1"))
			trash(t, d, d.Run("tasks", "1"))
			d.EmptyTrash()
			if n := entries(t, d); n != 0 {
				t.Errorf("%d entries in the trash", n)
			}
			for _, dir := range small {
				all, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "fill*"))
				for _, f := range all {
					err = errors.Join(err, os.Remove(f))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, update := range updates {
				if err := update(ctx, nil, func(tx *state.Tx) error { return bump(tx, "again") }); err != nil {
					t.Fatal(err)
				}
			}
			for _, path := range []string{d.Path("reserve"), d.Run("reserve")} {
				if _, err := os.Stat(path); err != nil {
					t.Errorf("the reserve is not set aside again: %v", err)
				}
			}
		})
	}
}

// Where all is durable nothing is ever committed to run.db. Its file system has a reserve all the same: whatever is removed takes locks there.
func TestRemovalOfDurable(t *testing.T) {
	root, run := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "m", "run")
	tmpfs(t, filepath.Dir(run), "size=4m,nr_inodes=400")
	d := open(t, root, run)
	release(t, d, "default/made")
	if err := d.Update(t.Context(), nil, func(tx *state.Tx) error { return bump(tx, "made") }); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Dir(run))
	release(t, d, "default/removed")
}
