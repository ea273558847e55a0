// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// The beginnings of names of directories for criu.
const (
	dumpPrefix    = task.DumpPrefix
	restorePrefix = "restore-"
	// lastPrefix and the incarnation of the task begin the name of a dump with which the task ends.
	lastPrefix = "last-"
	lockSuffix = task.ScratchLock
)

// Scratch is a directory of a container's for criu. It is private, and goes when it is closed.
type Scratch struct {
	Path string
	held *lock.Held
	d    *state.Dir
}

// newScratch makes one, and removes those of killed processes.
func newScratch(d *state.Dir, t *task.Task, prefix string) (*Scratch, error) {
	home := d.Path("containers", t.Namespace, t.Container.Files())
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	if err := Sweep(d, t); err != nil {
		return nil, err
	}
	s := &Scratch{d: d}
	var err error
	for {
		s.Path = filepath.Join(home, prefix+rand.Text())
		if s.held, err = lock.Hold(s.Path + lockSuffix); err == nil {
			break
		}
		if !errdefs.IsAborted(err) { // somebody sweeps, and took the file for one that was left
			return nil, err
		}
	}
	if err := os.Mkdir(s.Path, 0o700); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	crash.Point("checkpoint.scratch")
	return s, nil
}

// last is how the name of the directory begins that the present task ends with.
func last(t *task.Task) string { return lastPrefix + string(t.Incarnation()) + "-" }

// Sweep removes the directories of processes that were killed, and that of a task which has been restored. What the present task has
// ended with, or is about to, stays: nothing else has its memory.
func Sweep(d *state.Dir, t *task.Task) error {
	waits, err := t.ToRestore()
	if err != nil {
		return err
	}
	return t.SweepScratch(d, func(name string) bool {
		if strings.HasPrefix(name, lastPrefix) {
			return t.Incarnation() == "" || !strings.HasPrefix(name, last(t))
		}
		return strings.HasPrefix(name, dumpPrefix) || strings.HasPrefix(name, restorePrefix) && !waits
	})
}

// findLast gives the directory of the dump that the present task has ended with and that nobody has stored, or nil. Another process that
// has it is errdefs.ErrAborted.
func findLast(ctx context.Context, d *state.Dir, t *task.Task) (*Scratch, error) {
	if t.Incarnation() == "" {
		return nil, nil
	}
	home := d.Path("containers", t.Namespace, t.Container.Files())
	entries, err := os.ReadDir(home)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(home, e.Name())
		if !strings.HasPrefix(e.Name(), last(t)) || strings.HasSuffix(path, lockSuffix) {
			continue
		}
		if _, err := os.Stat(filepath.Join(path, lastImage)); err != nil {
			continue // one that failed
		}
		if ended, err := t.EndedByCheckpoint(ctx); err != nil || !ended {
			return nil, err
		}
		held, err := lock.Hold(path + lockSuffix)
		if err != nil {
			return nil, err
		}
		s := &Scratch{Path: path, held: held, d: d}
		if _, err := os.Stat(filepath.Join(path, lastImage)); err != nil { // who had it has stored it
			return nil, s.Close()
		}
		return s, nil
	}
	return nil, nil
}

// lastImage is the image of criu's that a dump writes last.
const lastImage = "inventory.img"

// Leave lets go of the directory, which stays: a task that waits for its start is restored from it.
func (s *Scratch) Leave() error { return s.held.Release() }

// Close removes the directory.
func (s *Scratch) Close() error {
	defer s.d.EmptyTrash()
	err := s.d.Trash(s.Path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	gone := os.Remove(s.Path + lockSuffix)
	if errors.Is(gone, os.ErrNotExist) {
		gone = nil // with the container, which was removed
	}
	return errors.Join(err, gone, s.held.Release())
}
