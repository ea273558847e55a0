// SPDX-License-Identifier: Apache-2.0

package taskdir

import (
	"path/filepath"

	"ctrd.dev/ctrd/lib/lock"
)

// Live tells whether anybody has the task: its supervisor or the command that is starting it.
func Live(dir string) (bool, error) { return anyHeld(dir, ShimLock, StartLock, SpawnLock) }

// Supervised tells whether the task's supervisor lives, from its first moment to its last.
func Supervised(dir string) (bool, error) { return anyHeld(dir, ShimLock, SpawnLock) }

func anyHeld(dir string, names ...string) (bool, error) {
	for _, name := range names {
		held, err := lock.IsHeld(filepath.Join(dir, name))
		if held || err != nil {
			return held, err
		}
	}
	return false, nil
}
