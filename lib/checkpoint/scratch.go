// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// The beginnings of names of directories for criu.
const (
	dumpPrefix    = "dump-"
	restorePrefix = "restore-"
	lockSuffix    = ".lock"
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
	s := &Scratch{Path: filepath.Join(home, prefix+rand.Text()), d: d}
	var err error
	if s.held, err = lock.Hold(s.Path + lockSuffix); err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.Path, 0o700); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	crash.Point("checkpoint.scratch")
	return s, nil
}

// Sweep removes the directories of processes that were killed, and that of a task which has been restored.
func Sweep(d *state.Dir, t *task.Task) error {
	waits, err := t.ToRestore()
	if err != nil {
		return err
	}
	home := d.Path("containers", t.Namespace, t.Container.Files())
	entries, err := os.ReadDir(home)
	if err != nil {
		return nil // the container has no files
	}
	defer d.EmptyTrash()
	for _, e := range entries {
		name, isLock := strings.CutSuffix(e.Name(), lockSuffix)
		if !isLock || !strings.HasPrefix(name, dumpPrefix) && !strings.HasPrefix(name, restorePrefix) {
			continue
		}
		if waits && strings.HasPrefix(name, restorePrefix) {
			continue
		}
		path := filepath.Join(home, name)
		if held, err := lock.IsHeld(path + lockSuffix); held || err != nil {
			continue
		}
		// What cannot be removed the removal of the container does.
		if err := d.Trash(path); err == nil || errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(path + lockSuffix)
		}
	}
	return nil
}

// Leave lets go of the directory, which stays: a task that waits for its start is restored from it.
func (s *Scratch) Leave() error { return s.held.Release() }

// Close removes the directory.
func (s *Scratch) Close() error {
	defer s.d.EmptyTrash()
	err := s.d.Trash(s.Path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.Remove(s.Path+lockSuffix), s.held.Release())
}
