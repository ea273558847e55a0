// SPDX-License-Identifier: Apache-2.0

package taskdir

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
)

// State is what a task is doing, as its files say.
type State string

// The states of a task, in the order in which it goes through them.
const (
	None     State = ""         // there is no such directory
	Creating State = "creating" // the starter is at it
	Created  State = "created"  // its init process waits to be started
	Running  State = "running"  // or paused, which only its cgroup says
	Stopped  State = "stopped"  // its exit is recorded
	Orphaned State = "orphaned" // starter and supervisor were killed, and nobody has seen to what they left
)

// View is what the files of a task said at one moment.
type View struct {
	State      State
	Task       Task
	Supervisor Supervisor // zero before the supervisor has the task
	Init       Process    // zero before Created
	Started    time.Time  // zero before Running
	Exit       Exit       // of Stopped
	Supervised bool       // the supervisor has not let go of the task
	Restarting bool       // Stopped, and about to be started again by the restart policy
	Starting   bool       // its starter is still at it
	// Abandoned says of an Orphaned one that an engine of the supervisor that was killed still works on it. Nobody may touch
	// the task until that has ended, which it does by itself.
	Abandoned bool
}

// Look reads what the task in a directory is doing. It takes no lock, waits for nobody and changes nothing.
func Look(dir string) (v View, err error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return v, nil
	}
	// The locks first: a supervisor records the exit before it lets go.
	if v.Starting, err = lock.IsHeld(filepath.Join(dir, StartLock)); err != nil {
		return v, err
	}
	if _, err := Read(dir, Shim, &v.Supervisor); err != nil {
		return v, err
	}
	if v.Supervised, err = Supervised(dir); err != nil {
		return v, err
	}
	var begun Started
	if _, err := Read(dir, Record, &v.Task); err != nil {
		return v, err
	}
	created, err := Read(dir, Init, &v.Init)
	if err != nil {
		return v, err
	}
	started, err := Read(dir, Begun, &begun)
	if err != nil {
		return v, err
	}
	v.Started = begun.At
	ended, err := Read(dir, End, &v.Exit)
	switch {
	case err != nil:
		return v, err
	case ended:
		v.State = Stopped
		if _, again := v.Task.Restart.Again(v.Exit, v.Started); !again || IsStopping(dir) {
			return v, nil
		}
		if v.Restarting = v.Supervised; !v.Restarting {
			v.Restarting, err = lock.IsHeld(filepath.Join(dir, RestartLock))
		}
		return v, err
	case !v.Starting && !v.Supervised:
		v.State = Orphaned
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			v.State = None // removed while it was looked at
			return v, nil
		}
		if v.Abandoned, err = lock.IsHeld(filepath.Join(dir, EngineLock)); err != nil {
			return v, err
		}
	case !created:
		v.State = Creating
	case !started:
		v.State = Created
	default:
		v.State = Running
	}
	return v, nil
}

// InUse tells whether somebody has the task: its starter, its supervisor, or a program that was left by both.
func (v View) InUse() bool { return v.Supervised || v.State != None && v.State != Stopped }

// MarkStopping says that the task or pod in a directory is ended on purpose: no restart policy applies, and who keeps the pod makes
// no other. Where the mark cannot be made they do; the end itself is not to depend on room for a file.
func MarkStopping(dir string) {
	if f, err := os.OpenFile(filepath.Join(dir, Stopping), os.O_WRONLY|os.O_CREATE, 0o600); err == nil {
		f.Close()
	}
}

// IsStopping tells whether the task or pod in a directory has that mark.
func IsStopping(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, Stopping))
	return err == nil
}

// ClientDied tells whether the client that the task or exec in a directory depends on was killed. It was not when there
// is none, or when it has left on purpose and taken its lock file away.
func ClientDied(dir string) (bool, error) {
	path := filepath.Join(dir, ClientLock)
	if _, err := os.Lstat(path); err != nil {
		return false, unlessMissing(err)
	}
	held, err := lock.IsHeld(path)
	if held || err != nil {
		return false, err
	}
	// One that leaves removes the file before it lets go.
	_, err = os.Lstat(path)
	return err == nil, unlessMissing(err)
}

func unlessMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Supervised tells whether the task's supervisor lives, from its first moment to its last.
func Supervised(dir string) (bool, error) {
	for _, name := range []string{SpawnLock, ShimLock} {
		held, err := lock.IsHeld(filepath.Join(dir, name))
		if held || err != nil {
			return held, err
		}
	}
	var s Supervisor
	if known, err := Read(dir, Shim, &s); err != nil || !known || !s.Foreign {
		return false, err
	}
	return s.Alive(), nil
}

// Alive tells whether the process has not ended.
func (p Process) Alive() bool {
	fd := p.Open()
	if fd < 0 {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n == 0 && err == nil
}
