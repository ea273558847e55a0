// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// DumpPrefix begins the name of a directory among a container's files in which a checkpoint is made. Beside it is a file with
// ScratchLock at the end of its name, which its process holds.
const (
	DumpPrefix  = "dump-"
	ScratchLock = ".lock"
)

// SweepScratch removes the directories for criu that no process holds and whose name is one to remove.
func (t *Task) SweepScratch(d *state.Dir, removes func(name string) bool) error {
	home := d.Path("containers", t.Namespace, t.Container.Files())
	entries, err := os.ReadDir(home)
	if err != nil {
		return nil // the container has no files
	}
	defer d.EmptyTrash()
	for _, e := range entries {
		name, isLock := strings.CutSuffix(e.Name(), ScratchLock)
		if !isLock || !removes(name) {
			continue
		}
		path := filepath.Join(home, name)
		held, err := lock.Hold(path + ScratchLock)
		if err != nil {
			continue
		}
		// What cannot be removed the removal of the container does.
		if err := d.Trash(path); err == nil || errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(path + ScratchLock)
		}
		_ = held.Release()
	}
	return nil
}
