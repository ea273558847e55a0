// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

// TestChangesAtOnce: a command that changes a container does not take back what a client of the API, which does not take
// the container's lock, changes at the same time.
func TestChangesAtOnce(t *testing.T) {
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir(), Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Update(t.Context(), nil, func(tx *state.Tx) error {
		_, err := container.Create(tx, "default", container.Container{ID: "c"}, &specs.Spec{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	const n = 30
	var both sync.WaitGroup
	both.Go(func() {
		for i := range n {
			if err := found(t, d, "c").relabel(t.Context(), map[string]string{fmt.Sprint("ours", i): "x"}); err != nil {
				t.Error(err)
			}
		}
	})
	both.Go(func() {
		for i := range n {
			key := fmt.Sprint("client", i)
			given := container.Container{ID: "c", Labels: map[string]string{key: "x"}}
			if err := d.Update(t.Context(), nil, func(tx *state.Tx) error {
				_, err := container.Update(tx, "default", given, nil, "labels."+key)
				return err
			}); err != nil {
				t.Error(err)
			}
		}
	})
	both.Wait()
	if got := len(found(t, d, "c").Container.Labels); got != 2*n {
		t.Errorf("%d labels of %d are there", got, 2*n)
	}
}

// TestOneWriterOfARecord: the task's record is written under the container's lock, by a start too.
func TestOneWriterOfARecord(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	c := found(t, d, "c")
	defer reserved(t, c, StartOptions{})()
	l, err := c.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{Linux: &specs.Linux{CgroupsPath: "/" + cgroupPrefix(d) + "-elsewhere"}}
	if err := c.place(t.Context(), s, StartOptions{Cgroups: CgroupsEnabled}); !errdefs.IsAborted(err) {
		t.Errorf("%v", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if err := c.place(t.Context(), s, StartOptions{Cgroups: CgroupsEnabled}); err != nil {
		t.Error(err)
	}
	if v, err := taskdir.Look(c.Dir()); err != nil || v.Task.Cgroup != s.Linux.CgroupsPath {
		t.Errorf("%+v, %v", v.Task, err)
	}
}

// TestRenameBesideACreate: an id at which another command is cannot be given to a container: the other may be making one, in
// the other database.
func TestRenameBesideACreate(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	l, err := d.Lock(t.Context(), nil, lock.Container, "default/new", lock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	if err := found(t, d, "c").Rename(t.Context(), "new"); !errdefs.IsAborted(err) {
		t.Errorf("%v", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
}
