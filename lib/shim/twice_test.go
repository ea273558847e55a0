// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskapi"
)

// atOnce makes calls at once and gives how many succeeded; all others must say that there is nothing any more.
func (k *task) atOnce(call func() error) (succeeded int) {
	k.Helper()
	const calls = 8
	errs := make(chan error, calls)
	for range calls {
		go func() { errs <- call() }()
	}
	for range calls {
		if err := <-errs; err == nil {
			succeeded++
		} else if !errdefs.IsNotFound(err) {
			k.Error(err)
		}
	}
	return succeeded
}

// TestDeletesAtOnce: of several Deletes one succeeds, and the supervisor lives on.
func TestDeletesAtOnce(t *testing.T) {
	c := newContainerd(t)
	k := bareTask(t, "sleep", "1000")
	c.start(k)
	pid := k.supervisor()
	defer func() { unix.Kill(pid, unix.SIGKILL) }()
	ctx := t.Context()
	k.mustRun()
	e := k.exec("one", false, false, "true")
	must(t, e.start())
	e.wait()
	if n := k.atOnce(func() error {
		_, err := k.client.Delete(ctx, &taskapi.DeleteRequest{ID: k.id, ExecID: "one"})
		return err
	}); n != 1 {
		t.Errorf("%d deletes of an exec", n)
	}
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.mustDelete()
	_, err := k.client.Create(ctx, k.request())
	must(t, err)
	if n := k.atOnce(func() error {
		_, err := k.client.Delete(ctx, &taskapi.DeleteRequest{ID: k.id})
		return err
	}); n != 1 {
		t.Errorf("%d deletes of a container", n)
	}
	if k.supervisor() != pid {
		t.Error("another supervisor")
	}
	must(t, k.client.Shutdown(ctx, &taskapi.ShutdownRequest{ID: k.id}))
	k.ends(pid)
	k.nothingLeft()
}

// TestStartBesideDelete: an exec that is deleted while it is being started runs or does not, and never runs unknown
// to the supervisor.
func TestStartBesideDelete(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	ctx := t.Context()
	for range 30 {
		e := k.exec("one", false, false, "sleep", "1000")
		must(t, k.client.Exec(ctx, e.req))
		started := make(chan error, 1)
		go func() {
			_, err := k.client.Start(ctx, &taskapi.StartRequest{ID: k.id, ExecID: "one"})
			started <- err
		}()
		_, deleted := k.client.Delete(ctx, &taskapi.DeleteRequest{ID: k.id, ExecID: "one"})
		err := <-started
		if err == nil && deleted == nil {
			t.Fatal("it runs and is deleted")
		}
		if err == nil {
			must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, ExecID: "one", Signal: 9}))
			e.wait()
			e.del()
		} else if deleted != nil {
			t.Fatal(err, deleted)
		}
		e.stdout.Close()
		e.stderr.Close()
	}
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.wait()
	k.nothingLeft()
}

// TestWaitForWhatIsDropped: a Wait ends when what it waits for is deleted before it has run.
func TestWaitForWhatIsDropped(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	ctx := t.Context()
	e := k.exec("one", false, false, "true")
	must(t, k.client.Exec(ctx, e.req))
	waited := make(chan error, 1)
	go func() {
		_, err := k.client.Wait(ctx, &taskapi.WaitRequest{ID: k.id, ExecID: "one"})
		waited <- err
	}()
	_, err := k.client.Delete(ctx, &taskapi.DeleteRequest{ID: k.id, ExecID: "one"})
	must(t, err)
	if err := <-waited; !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.wait()
	k.nothingLeft()
}
