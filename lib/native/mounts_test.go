// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/activation"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// TestRootOfNamesake: a task's root is made of mounts that were made for it: not of those that another container of its id has
// left, nor of those of an earlier task; a client's stay as they are, and so do those of a task that is being made.
func TestRootOfNamesake(t *testing.T) {
	d := openPatient(t)
	s := serve(t, Options{Dir: d}).Server
	ctx := t.Context()
	t.Cleanup(func() {
		for id := range activation.Dirs(d) {
			if err := activation.Drop(d, id); err != nil {
				t.Error(err)
			}
		}
		d.EmptyTrash()
	})
	open := func() *task.Task {
		t.Helper()
		_, err := task.Record(ctx, d, "ns", container.Container{ID: "c", Runtime: container.Runtime{Name: "io.containerd.runc.v2"}}, []byte("{}"), func(*state.Tx) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		one, err := task.Open(ctx, d, "ns", "c")
		if err != nil {
			t.Fatal(err)
		}
		return one
	}
	given := []*types.Mount{{Type: "tmpfs", Source: "tmpfs"}, {Type: "format/overlay", Source: "overlay", Options: []string{"lowerdir={{ mount 0 }}:/"}}}
	is := func(r root) error { // whether r is what stands under the id
		return d.View(ctx, func(tx *state.Tx) error {
			now, err := activation.Get(tx, "ns", "c")
			if err == nil && now.ID != r.made.ID {
				err = errors.New("another one is there")
			}
			return err
		})
	}
	// made wants mounts of its own for a task, as another ctrd would leave them that is killed before the task is there.
	made := func(one *task.Task) root {
		t.Helper()
		all, r, err := s.rootfs(ctx, one, given)
		if err != nil {
			t.Fatal(err)
		}
		if r.held == nil || !strings.HasPrefix(all[0].Options[0], "lowerdir="+r.made.Active[0].Point+":") {
			t.Errorf("%+v are not those of %+v", all, r.made)
		}
		if err := errors.Join(is(r), r.made.Check(d)); err != nil {
			t.Error(err)
		}
		return r
	}
	first := open()
	old := made(first)
	if _, _, err := s.rootfs(ctx, first, given); !errdefs.IsAlreadyExists(err) {
		t.Errorf("while a task is being made: %v", err)
	}
	if err := old.held.Release(); err != nil {
		t.Fatal(err)
	}
	again := made(first) // an earlier task of the container has left the old ones
	if err := errors.Join(again.held.Release(), first.Forget(ctx)); err != nil {
		t.Fatal(err)
	}
	second := open()
	own := made(second)
	if a, err := s.rootOf(ctx, first); err != nil || a.Name != "" {
		t.Errorf("the container that is gone has %+v, %v", a, err)
	}
	s.endRoot(ctx, "ns", again.made)
	if err := is(own); err != nil {
		t.Errorf("after the end of the one before: %v", err)
	}
	own.settle(ctx, errors.New("the task could not be made"))
	if err := is(own); !errdefs.IsNotFound(err) {
		t.Errorf("after a task that could not be made: %v", err)
	}
	if dirs := len(ids(d)); dirs > 0 {
		t.Errorf("%d directories are left", dirs)
	}
	mine, err := activation.Activate(ctx, d, "ns", activation.Request{Name: "c", Temporary: true, Mounts: []mount.Mount{{Type: "tmpfs", Source: "tmpfs"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.rootfs(ctx, second, given); !errdefs.IsAlreadyExists(err) {
		t.Errorf("where a client has mounts: %v", err)
	}
	if a, err := s.rootOf(ctx, second); err != nil || a.Name != "" {
		t.Errorf("of a client's, the task has %+v, %v", a, err)
	}
	if err := is(root{made: mine}); err != nil {
		t.Error(err)
	}
}

func ids(d *state.Dir) (all []string) {
	for id := range activation.Dirs(d) {
		all = append(all, id)
	}
	return all
}
