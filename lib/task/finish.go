// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// killedStatus is the exit status of a task whose supervisor was killed: what SIGKILL gives.
const killedStatus = 128 + 9

// Finish ends a task whose supervisor is gone: kills what it left, records the exit, and removes a
// transient container altogether. A task that anybody still has is left alone.
func Finish(ctx context.Context, d *state.Dir, ns, id string) error {
	l, err := d.Lock(ctx, nil, lock.Container, ns+"/"+id, lock.Exclusive)
	if err != nil {
		return err
	}
	transient, err := finish(d, ns, id)
	if err == nil && transient {
		err = removeRecords(ctx, d, l, ns, id)
	}
	if err = errors.Join(err, l.Release()); err != nil {
		return fmt.Errorf("finish container %q: %w", id, err)
	}
	if transient {
		return d.EmptyTrash()
	}
	return nil
}

// finishSoon is Finish for listings, which wait for nobody: when a lock is busy, whoever has it sees to
// the task, or the next listing does.
func finishSoon(ctx context.Context, d *state.Dir, ns, id string) {
	d, err := state.Open(state.Config{Root: d.Path(), State: d.Run(), Wait: 0})
	if err != nil {
		return
	}
	l, err := d.Lock(ctx, nil, lock.Container, ns+"/"+id, lock.Exclusive)
	if err != nil {
		return
	}
	transient, err := finish(d, ns, id)
	if err == nil && transient {
		_ = removeRecords(ctx, d, l, ns, id)
	}
	l.Release()
}

// Tidy removes what removals that were cut short have left: task directories and logs whose container is
// gone, in every namespace. One that anybody is at is left to them.
func Tidy(ctx context.Context, d *state.Dir) error {
	var orphans []string
	for _, list := range []iter.Seq2[string, error]{Dirs(d), LogDirs(d)} {
		for name, err := range list {
			if err != nil {
				return fmt.Errorf("tidy: %w", err)
			}
			orphans = append(orphans, name)
		}
	}
	// The directories first: a record is written before its container has any.
	err := d.View(ctx, func(tx *state.Tx) error {
		var failed error
		orphans = slices.DeleteFunc(orphans, func(name string) bool {
			ns, id, _ := strings.Cut(name, "/")
			_, err := container.Get(tx, ns, id)
			if !errdefs.IsNotFound(err) {
				failed = errors.Join(failed, err)
				return true
			}
			return false
		})
		return failed
	})
	if err != nil {
		return fmt.Errorf("tidy: %w", err)
	}
	for _, name := range orphans {
		ns, id, _ := strings.Cut(name, "/")
		finishSoon(ctx, d, ns, id)
	}
	return nil
}

// finish does the work of Finish under the container's lock. It reports whether the container is
// transient and nobody is left who would remove it.
func finish(d *state.Dir, ns, id string) (orphan bool, err error) {
	dir := Dir(d, ns, id)
	alive, err := taskdir.Live(dir)
	if alive || err != nil {
		return false, err
	}
	if err := removeSocket(d, dir); err != nil {
		return false, err
	}
	if err := end(d, dir, ns, id); err != nil {
		return false, err
	}
	err = d.View(context.Background(), func(tx *state.Tx) error {
		c, err := container.Get(tx, ns, id)
		orphan = c.Transient
		return err
	})
	if errdefs.IsNotFound(err) {
		return true, nil // a removal that was cut short
	}
	if err != nil || !orphan {
		return false, err
	}
	client, err := lock.IsHeld(filepath.Join(dir, taskdir.ClientLock))
	return !client, err
}

// end brings a dead task to rest: nothing runs, the exit is recorded.
func end(d *state.Dir, dir, ns, id string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var exit taskdir.Exit
	if done, err := taskdir.Read(dir, taskdir.End, &exit); done || err != nil {
		return err
	}
	cg := cgroupOf(d, dir, ns, id)
	if err := cgroup.Kill(cg); err != nil {
		return err
	}
	crash.Point("task.finish-killed")
	if err := cgroup.Remove(cg); err != nil {
		return err
	}
	crash.Point("task.finish-removed")
	var p taskdir.Process
	started, err := taskdir.Read(dir, taskdir.Init, &p)
	if err != nil {
		return err
	}
	if !started {
		return d.Trash(dir) // nothing ever ran
	}
	exit = taskdir.Exit{Status: killedStatus, ExitedAt: time.Now().UTC(), Reason: "supervisor died"}
	if err := taskdir.Write(dir, taskdir.End, exit); err != nil {
		return err
	}
	crash.Point("task.finish-recorded")
	return d.Journal().Append(ns, event.TaskExit{ContainerID: id, ID: id, Pid: uint32(p.PID), ExitStatus: killedStatus, ExitedAt: exit.ExitedAt})
}

// removeSocket removes the socket of a supervisor that is gone, which does so itself unless it is killed.
func removeSocket(d *state.Dir, dir string) error {
	err := os.Remove(d.Run("s", taskapi.SocketName(dir)))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// cgroupOf reads the cgroup from the bundle; before that is written, it is the default one.
func cgroupOf(d *state.Dir, dir, ns, id string) string {
	var s specs.Spec
	if ok, err := taskdir.Read(dir, taskdir.Config, &s); ok && err == nil && s.Linux != nil && s.Linux.CgroupsPath != "" {
		return s.Linux.CgroupsPath
	}
	return cgroupPath(d, "", ns, id)
}
