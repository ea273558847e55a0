// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Task is a handle on one container and on one task of it, if it has any. It is to be closed when it was
// started or connected; it is not for concurrent use.
type Task struct {
	Container container.Container // the record as it was when the handle was made
	Namespace string

	d       *state.Dir
	inc     taskdir.Incarnation // empty: the container has no task
	pid     int                 // of init, once this handle has created the task
	api     *taskapi.Client     // nil until it is needed
	foreign bool                // the task's shim is not ours
	systemd bool                // systemd makes the cgroup of the task that this handle starts
	inUnit  bool                // that task stays in the systemd unit of this process
	outside string              // unit of this process that does not have the task
	early   bool                // the sandbox of the container need not be ready
	given   []*os.File          // write ends of FIFOs that a foreign shim is about to open
	hooks   time.Duration       // what the hooks of a task may take that this handle makes; see ask.HookTime
	client  *lock.Held          // says that this process lives, to a task that depends on it
}

// ID is the container's id.
func (t *Task) ID() string { return t.Container.ID }

// PID is the pid of the first process of a task that this handle has created; 0 before.
func (t *Task) PID() int { return t.pid }

// Incarnation names the task that is meant; empty when the container had none.
func (t *Task) Incarnation() taskdir.Incarnation { return t.inc }

// Find looks a container up by what a person typed: its id, or the beginning of a random one.
func Find(ctx context.Context, d *state.Dir, ns, query string) (*Task, error) {
	return open(ctx, d, ns, query, container.Find)
}

// Open looks a container up by its exact id.
func Open(ctx context.Context, d *state.Dir, ns, id string) (*Task, error) {
	return open(ctx, d, ns, id, container.Get)
}

func open(ctx context.Context, d *state.Dir, ns, name string, get func(*state.Tx, string, string) (container.Container, error)) (*Task, error) {
	t := &Task{d: d, Namespace: ns}
	err := d.View(ctx, func(tx *state.Tx) (err error) {
		t.Container, err = get(tx, ns, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return t, t.refresh()
}

// refresh means the container's present task from now on. What is there of another container of the same id, made
// since the record was read or left by a removal that was cut short, is not meant.
func (t *Task) refresh() (err error) {
	t.inc, err = taskdir.Current(t.base())
	if err != nil || t.inc == "" || t.Container.UID == "" {
		return err
	}
	var r taskdir.Task
	if _, err := taskdir.Read(t.Dir(), taskdir.Record, &r); err != nil {
		return err
	}
	if r.UID != "" && r.UID != t.Container.UID {
		t.inc = ""
	}
	return nil
}

// present is a handle on the container and the task that is in its directory by now. The caller holds the container's
// lock, so that no other container has the id.
func (t *Task) present() (*Task, error) {
	now := &Task{Container: t.Container, Namespace: t.Namespace, d: t.d}
	var err error
	now.inc, err = taskdir.Current(t.base())
	return now, err
}

// reopen reads the container's record again. One that has been removed is errdefs.ErrNotFound, also when another has
// its id.
func (t *Task) reopen(ctx context.Context) (*Task, error) {
	now, err := Open(ctx, t.d, t.Namespace, t.ID())
	if err == nil {
		err = t.checkSame(now.Container)
	}
	return now, err
}

// checkSame refuses a record that is another container's.
func (t *Task) checkSame(c container.Container) error {
	if c.UID != t.Container.UID {
		return fmt.Errorf("container %q has been removed, and another has its name: %w", c.ID, errdefs.ErrNotFound)
	}
	return nil
}

// base is the directory of the container's tasks.
func (t *Task) base() string { return t.d.Run("tasks", t.Namespace, t.Container.ID) }

// Dir is the directory of the task; of none, one that does not exist.
func (t *Task) Dir() string {
	if t.inc == "" {
		return filepath.Join(t.base(), ".none")
	}
	return filepath.Join(t.base(), string(t.inc))
}

// Log is the path of the container's output log.
func (t *Task) Log() string { return logPath(t.d, t.Namespace, t.Container) }

func logPath(d *state.Dir, ns string, c container.Container) string {
	if c.LogPath != "" {
		return c.LogPath
	}
	return d.Path("containers", ns, c.Files(), "log")
}

// Close gives up the connection to the supervisor and, for a client of a transient container, the care for it.
func (t *Task) Close() error {
	var err error
	if t.api != nil {
		err = t.api.Close()
		t.api = nil
	}
	if t.client != nil {
		err = errors.Join(err, t.client.Release())
		t.client = nil
	}
	return err
}

// Leave says that the task does not depend on this process any more: its supervisor has the container removed
// if it is transient, and its stdin stays open for other clients.
func (t *Task) Leave() error {
	if t.client == nil {
		return nil
	}
	left := t.client
	t.client = nil
	return left.Remove()
}

// lock takes the container's lock and checks that the id is still that of this container. One that has been
// removed is errdefs.ErrNotFound, also when another has its id.
func (t *Task) lock(ctx context.Context) (*lock.Lock, error) {
	l, err := t.d.Lock(ctx, nil, lock.Container, t.Namespace+"/"+t.Container.ID, lock.Exclusive)
	if err != nil {
		return nil, err
	}
	err = t.d.View(ctx, func(tx *state.Tx) error {
		c, err := container.Get(tx, t.Namespace, t.Container.ID)
		if err == nil {
			err = t.checkSame(c)
		}
		if err == nil {
			t.Container = c
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, l.Release())
	}
	return l, nil
}

// Dirs yields namespace/id of every container that has a directory for tasks.
func Dirs(d *state.Dir) iter.Seq2[string, error] { return twoLevels(d.Run("tasks")) }

// LogDirs yields the namespace and container.Container.Files, joined by a slash, of every container that has
// files.
func LogDirs(d *state.Dir) iter.Seq2[string, error] { return twoLevels(d.Path("containers")) }

// twoLevels yields the names a/b below a directory, which may be missing.
func twoLevels(dir string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		outer, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			yield("", err)
			return
		}
		for _, o := range outer {
			inner, err := os.ReadDir(filepath.Join(dir, o.Name()))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				yield("", err)
				return
			}
			for _, i := range inner {
				if !yield(o.Name()+"/"+i.Name(), nil) {
					return
				}
			}
		}
	}
}

// pause waits for a moment, or fails when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Spec reads the container's OCI spec.
func (t *Task) Spec(ctx context.Context) (s *specs.Spec, err error) {
	err = t.d.View(ctx, func(tx *state.Tx) error {
		s, err = t.readSpec(tx)
		return err
	})
	return s, err
}
