// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskdir"
)

// adopt reads the task's record and takes its locks: shim.lock, and the one that its engines inherit, so that what the
// engines of a supervisor that was killed still work on can be told. A task without a record is containerd's.
func (t *task) adopt() error {
	var r taskdir.Task
	known, err := taskdir.Read(t.bundle, taskdir.Record, &r)
	if err == nil && !known {
		t.engines, err = lock.Hold(t.path(taskdir.EngineLock))
		return err
	}
	if err != nil {
		return err
	}
	if r.ID != "" && r.ID != t.id {
		return fmt.Errorf("%s is the task of container %q, not of %q", t.bundle, r.ID, t.id)
	}
	if t.held, err = lock.Hold(t.path(taskdir.ShimLock)); err != nil {
		return err
	}
	t.record = &r
	if t.engines, err = lock.Hold(t.path(taskdir.EngineLock)); err != nil {
		return err
	}
	return t.listen()
}

// ofClient tells whether the task was made by a client of containerd's API, of containerd's server or of ctrd's, and not by one of our
// commands.
func (t *task) ofClient() bool { return t.record == nil || t.record.IO != nil }

// announce tells where the task's supervisor is.
func (t *task) announce() error {
	if t.record == nil {
		return nil
	}
	self, err := taskdir.ProcessOf(os.Getpid())
	if err != nil {
		return err
	}
	return t.write(taskdir.Shim, taskdir.Supervisor{Process: self, Address: "unix://" + t.s.config.Socket, Version: Version})
}

// engineFile is what `delete` needs to know of an OCI engine: ask.Engine.
const engineFile = "engine.json"

// recordEngine says which OCI engine has made a container of containerd's.
func (t *task) recordEngine() error {
	e := t.engine()
	if t.record != nil || e.Binary == "" {
		return nil
	}
	return t.write(engineFile, e)
}

// reserve sets aside the room for the exit record, unless the starter has.
func (t *task) reserve() error {
	if t.record == nil {
		return nil
	}
	if _, err := os.Lstat(t.path(taskdir.End + ".tmp")); err == nil {
		return nil
	}
	return taskdir.ReserveExit(t.bundle)
}

// recordCreated says that init waits to be started.
func (t *task) recordCreated(pid int) error {
	if t.record == nil {
		return t.writePid(pid, taskdir.BundleInit)
	}
	if t.told != nil {
		if err := t.writePid(pid, taskdir.Bundle, taskdir.BundleInit); err != nil {
			return err
		}
	}
	init, err := taskdir.ProcessOf(pid)
	if errors.Is(err, os.ErrNotExist) {
		init, err = taskdir.Process{PID: pid}, nil // it has been killed meanwhile, and its end comes next
	}
	if err != nil {
		return err
	}
	return t.write(taskdir.Init, init)
}

// writePid leaves the pid of init where containerd's shims do.
func (t *task) writePid(pid int, name ...string) error {
	return os.WriteFile(t.path(name...), []byte(strconv.Itoa(pid)), 0o644)
}

// recordFrozen says that the container waits to be restored: it is created, and has no process yet.
func (t *task) recordFrozen() error {
	if t.record == nil {
		return nil
	}
	return t.write(taskdir.Init, taskdir.Process{})
}

// recordStarted says that the program runs. It comes before init is let go, so that a task which has run is
// never taken for one that has not.
func (t *task) recordStarted() error {
	t.started = time.Now().UTC()
	if t.record == nil {
		return nil
	}
	return t.write(taskdir.Begun, taskdir.Started{At: t.started})
}

// recordNotStarted takes recordStarted back.
func (t *task) recordNotStarted() {
	t.started = time.Time{}
	if t.record == nil {
		return
	}
	if err := os.Remove(t.path(taskdir.Begun)); err != nil {
		t.logf("%v", err)
	}
}

// recordLost says early that output is being lost, for readers who do not wait for the exit.
func (t *task) recordLost(d taskdir.Dropped) {
	if t.record == nil {
		return
	}
	if err := t.write(taskdir.Lost, d); err != nil {
		t.logf("%v", err)
	}
}

// recordExit writes how the task ended.
func (t *task) recordExit(e taskdir.Exit) {
	if t.record == nil {
		return
	}
	err := taskdir.WriteExit(t.bundle, e)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Without it the next command finds a task whose supervisor is gone, and ends that.
		t.logf("record the exit: %v", err)
	}
}

// letEnginesGo gives up the lock that the engines of the task inherit: none runs any more.
func (t *task) letEnginesGo() { t.unlock(&t.engines) }

// release lets go of the task: from here on others may start or remove the container.
func (t *task) release() {
	t.letEnginesGo()
	t.stopListening()
	t.unlock(&t.held)
}

func (t *task) unlock(l **lock.Held) {
	if *l == nil {
		return
	}
	if err := (*l).Release(); err != nil {
		t.logf("%v", err)
	}
	*l = nil
}
