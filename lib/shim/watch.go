// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"os"
	"time"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// watchStarter ends a task whose starter died before it came to Start.
func (t *task) watchStarter() {
	path := t.path(taskdir.StartLock)
	if _, err := os.Lstat(path); err != nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-t.s.life.Done():
			return
		case <-tick.C:
		}
		if t.hasStarted() {
			return
		}
		held, err := lock.IsHeld(path)
		if err == nil && !held && !t.hasStarted() {
			t.s.abandon("its starter died")
		}
	}
}

func (t *task) hasStarted() bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return t.init != nil && t.init.status != taskapi.StatusCreated && t.init.status != taskapi.StatusUnknown
}
