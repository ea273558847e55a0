// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

func openDir(t *testing.T) *state.Dir {
	t.Helper()
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]unix.Signal{
		"TERM": 15, "SIGTERM": 15, "term": 15, "sigkill": 9, "9": 9, "64": 64, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "rtmax": 64,
	} {
		if got, err := ParseSignal(text); err != nil || got != want {
			t.Errorf("ParseSignal(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "65", "-1", "NONSENSE", "SIG", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMINx"} {
		if got, err := ParseSignal(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("ParseSignal(%q) = %d, %v; want kind InvalidArgument", text, got, err)
		}
	}
}

func FuzzParseSignal(f *testing.F) {
	f.Add("SIGRTMIN+3")
	f.Fuzz(func(t *testing.T, s string) {
		if sig, err := ParseSignal(s); err == nil && (sig < 1 || sig > maxSignal) {
			t.Errorf("ParseSignal(%q) = %d", s, sig)
		}
	})
}

// Two containers never share a cgroup, whatever their names.
func TestCgroupPaths(t *testing.T) {
	a, b := openDir(t), openDir(t)
	seen := map[string]string{}
	for _, d := range []*state.Dir{a, b} {
		for _, name := range [][2]string{{"a", "b-c"}, {"a-b", "c"}, {"a", "b.c"}, {"a.b", "c"}, {"a", "b"}} {
			p, err := cgroupsPath(d, name[0], container.Container{ID: name[1]})
			if err != nil {
				t.Fatal(err)
			}
			who := d.Run() + name[0] + "/" + name[1]
			if other, ok := seen[p]; ok {
				t.Errorf("%s and %s both have the cgroup %s", other, who, p)
			}
			seen[p] = who
			if strings.Count(p, "/") != 1 {
				t.Errorf("cgroup %s is not flat", p)
			}
		}
	}
}

// recorded records a container as Create does, without an image.
func recorded(t *testing.T, d *state.Dir, id string, transient bool) {
	t.Helper()
	update := d.Update
	if transient {
		update = d.UpdateRun
	}
	if err := update(context.Background(), nil, func(tx *state.Tx) error {
		_, err := container.Create(tx, "default", container.Container{ID: id}, nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// found looks a container up that must be there.
func found(t *testing.T, d *state.Dir, id string) *Task {
	t.Helper()
	c, err := Find(t.Context(), d, "default", id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// reserved makes a task of a container as a start does, and lets go of it if told so.
func reserved(t *testing.T, c *Task, o StartOptions) (release func()) {
	t.Helper()
	l, err := c.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	starting, err := c.reserve(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	return func() { starting.Release() }
}

func write(t *testing.T, c *Task, name string, v any) {
	t.Helper()
	if err := taskdir.Write(c.Dir(), name, v); err != nil {
		t.Fatal(err)
	}
}

// What a container is doing follows from the files of its task alone.
func TestStatusFollowsFromFiles(t *testing.T) {
	d := openDir(t)
	ctx := t.Context()
	status := func(want Status) {
		t.Helper()
		i, err := found(t, d, "c").Info(ctx)
		if err != nil || i.Status != want {
			t.Errorf("status %s, %v; want %s", i.Status, err, want)
		}
	}
	recorded(t, d, "c", false)
	status(Created)
	c := found(t, d, "c")
	created := reserved(t, c, StartOptions{})
	status(Starting)
	if _, err := found(t, d, "c").create(ctx, StartOptions{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second start: %v, want kind FailedPrecondition", err)
	}
	shim, err := lock.Hold(c.Dir() + "/" + taskdir.ShimLock)
	if err != nil {
		t.Fatal(err)
	}
	write(t, c, taskdir.Init, taskdir.Process{PID: 1, StartTime: 1})
	status(Created)
	created()
	status(Created)
	write(t, c, taskdir.Begun, taskdir.Started{})
	status(Running)
	// The supervisor is killed. A listing tells, and changes nothing; the next act ends the task.
	shim.Release()
	status(Orphaned)
	status(Orphaned)
	if exit, err := found(t, d, "c").Wait(ctx); err != nil || exit.Status != killedStatus || exit.Reason == "" {
		t.Errorf("Wait: %+v, %v", exit, err)
	}
	status(Stopped)
	if err := found(t, d, "c").Remove(ctx, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.base()); !os.IsNotExist(err) {
		t.Errorf("the task directory is still there: %v", err)
	}
}

// A handle means one container and one task: what has the same name by now is left alone.
func TestNamesakesAreLeftAlone(t *testing.T) {
	d := openDir(t)
	ctx := t.Context()
	recorded(t, d, "c", true)
	late := found(t, d, "c")
	reserved(t, late, StartOptions{})()
	write(t, late, taskdir.Init, taskdir.Process{PID: 1, StartTime: 1})
	if err := late.End(ctx); err != nil {
		t.Fatal(err)
	}
	// The same container runs again: the removal that belongs to the first task does nothing.
	again := found(t, d, "c")
	defer reserved(t, again, StartOptions{})()
	if err := late.RemoveEnded(ctx); err != nil {
		t.Fatal(err)
	}
	if err := late.discardEnded(ctx); err != nil {
		t.Fatal(err)
	}
	if i, err := found(t, d, "c").Info(ctx); err != nil || i.Status != Starting || i.Incarnation != again.Incarnation() {
		t.Errorf("after a late removal: %+v, %v", i, err)
	}
	// Another container has the name.
	recorded(t, d, "x", false)
	old := found(t, d, "x")
	if err := found(t, d, "x").Remove(ctx, false); err != nil {
		t.Fatal(err)
	}
	recorded(t, d, "x", false)
	if err := old.Remove(ctx, true); !errdefs.IsNotFound(err) {
		t.Errorf("removal of a container that is gone: %v, want kind NotFound", err)
	}
	if err := old.Start(ctx, StartOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("start of a container that is gone: %v, want kind NotFound", err)
	}
	found(t, d, "x")
}

// What a removal that was cut short has left of a container says nothing of the next one of its id.
func TestLeftTaskIsNotTheNextContainers(t *testing.T) {
	d := openDir(t)
	ctx := t.Context()
	recorded(t, d, "c", false)
	old := found(t, d, "c")
	reserved(t, old, StartOptions{})()
	if err := taskdir.WriteExit(old.Dir(), taskdir.Exit{Status: 7}); err != nil {
		t.Fatal(err)
	}
	// As a kill at task.removed-records leaves it.
	if err := d.Update(ctx, nil, func(tx *state.Tx) error { return container.Remove(tx, "default", "c") }); err != nil {
		t.Fatal(err)
	}
	recorded(t, d, "c", false)
	if i, err := found(t, d, "c").Info(ctx); err != nil || i.Status != Created || i.Exit != nil {
		t.Errorf("the next container: %+v, %v", i, err)
	}
	// A handle on the first container does not become one on the second.
	if i, err := old.Info(ctx); err != nil || i.Exit == nil || i.Exit.Status != 7 {
		t.Errorf("the task that is left: %+v, %v", i, err)
	}
	next := found(t, d, "c")
	defer reserved(t, next, StartOptions{})()
	if i, err := next.Info(ctx); err != nil || i.Status != Starting {
		t.Errorf("the next container's task: %+v, %v", i, err)
	}
	if i, err := old.Info(ctx); !errdefs.IsNotFound(err) {
		t.Errorf("a handle on a container that is gone: %+v, %v, want kind NotFound", i, err)
	}
	if err := old.Restart(ctx, 0, StartOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("restart of a container that is gone: %v, want kind NotFound", err)
	}
	if err := old.awaitLog(ctx); !errdefs.IsNotFound(err) {
		t.Errorf("wait for the log of a container that is gone: %v, want kind NotFound", err)
	}
}

// An exec does not make the directory of a task that has just been removed, nor does a start that failed take away
// one that could not be ended.
func TestTaskDirectoryIsNotMadeOrRemovedByTheWay(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	c := found(t, d, "c")
	release := reserved(t, c, StartOptions{})
	if err := c.discardEnded(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a task that is being started is discarded: %v, want kind FailedPrecondition", err)
	}
	if err := (&ExecProcess{ExecID: "e", t: c}).makeDir(); err != nil {
		t.Error(err)
	}
	release()
	if err := c.discardEnded(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone := &Task{Container: c.Container, Namespace: c.Namespace, d: d, inc: taskdir.NewIncarnation()}
	if err := (&ExecProcess{ExecID: "e", t: gone}).makeDir(); !os.IsNotExist(err) {
		t.Errorf("exec in a task that is gone: %v", err)
	}
	if i, err := found(t, d, "c").Info(t.Context()); err != nil || i.Status != Created {
		t.Errorf("after it: %+v, %v", i, err)
	}
}

// A wait for a container that is removed does not tell the exit of the next one of its name.
func TestWaitTellsNoNamesakesExit(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	late := found(t, d, "c")
	since, err := d.Journal().Last()
	if err != nil {
		t.Fatal(err)
	}
	exit := func(status uint32) {
		t.Helper()
		if err := d.Journal().Append("default", event.TaskExit{ContainerID: "c", ID: "c", ExitStatus: status}); err != nil {
			t.Fatal(err)
		}
	}
	if err := found(t, d, "c").Remove(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	recorded(t, d, "c", false)
	exit(7)
	if e, ok := late.exitEvent(t.Context(), since); ok {
		t.Errorf("it tells %+v", e)
	}
	if since, err = d.Journal().Last(); err != nil {
		t.Fatal(err)
	}
	exit(8)
	if e, ok := found(t, d, "c").exitEvent(t.Context(), since); !ok || e.Status != 8 {
		t.Errorf("its own: %+v, %v", e, ok)
	}
}

// A forced removal also ends a task that somebody has started since the handle was made.
func TestForcedRemovalEndsALaterStart(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	d, err := state.Open(state.Config{Root: d.Path(), State: d.Run(), Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	starter, remover := found(t, d, "c"), found(t, d, "c")
	l, err := starter.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	removed := make(chan error, 1)
	go func() { removed <- remover.Remove(t.Context(), true) }() // it waits for the lock
	starting, err := starter.reserve(t.Context(), StartOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	for !starter.stopping() {
		select {
		case err := <-removed:
			t.Fatalf("it is removed while it is being started: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	if err := starting.Release(); err != nil {
		t.Fatal(err)
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
}

// A full id is never the beginning of another.
func TestOpenTakesNoBeginning(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "abcdefabcdef", true)
	if _, err := Open(t.Context(), d, "default", "a"); !errdefs.IsNotFound(err) {
		t.Errorf("Open: %v, want kind NotFound", err)
	}
	if c := found(t, d, "a"); c.ID() != "abcdefabcdef" {
		t.Errorf("Find gives %q", c.ID())
	}
}

// Tidy removes a transient container that nobody has, and leaves one that its client will remove.
func TestTidy(t *testing.T) {
	d := openDir(t)
	ctx := t.Context()
	for _, id := range []string{"never-started", "orphan", "owned"} {
		recorded(t, d, id, true)
	}
	reserved(t, found(t, d, "orphan"), StartOptions{})()
	owned := found(t, d, "owned")
	reserved(t, owned, StartOptions{Client: true})()
	if err := taskdir.WriteExit(owned.Dir(), taskdir.Exit{}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.Run("tasks/default/gone/x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Tidy(ctx, d); err != nil {
		t.Fatal(err)
	}
	all, err := infos(ctx, d)
	if err != nil || len(all) != 1 || all[0].ID != "owned" {
		t.Errorf("containers %+v, %v; want owned alone", all, err)
	}
	if left, err := os.ReadDir(d.Run("tasks/default")); err != nil || len(left) != 1 {
		t.Errorf("directories %v, %v; want that of owned alone", left, err)
	}
	if err := owned.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Tidy(ctx, d); err != nil {
		t.Fatal(err)
	}
	if all, err := infos(ctx, d); err != nil || len(all) != 0 {
		t.Errorf("after its client has ended: %+v, %v", all, err)
	}
}

// infos collects what All yields of the default namespace.
func infos(ctx context.Context, d *state.Dir) (all []Info, err error) {
	for info, e := range All(ctx, d, "default") {
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		all = append(all, *info)
	}
	return all, err
}

// Thousands are listed in order, once each; of one whose record cannot be read the error tells, and the others are there.
func TestAllOfMany(t *testing.T) {
	const many = 1000
	d, broken := openDir(t), state.Table[string]{Name: "containers"}
	err := d.Update(t.Context(), nil, func(tx *state.Tx) error {
		for i := range many {
			if _, err := container.Create(tx, "default", container.Container{ID: fmt.Sprintf("c%04d", i), Image: fmt.Sprint("image ", i)}, nil); err != nil {
				return err
			}
		}
		return broken.Put(tx, "default", "c0500x", "no record")
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := infos(t.Context(), d)
	if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "c0500x") || len(all) != many {
		t.Fatalf("%d containers, %v", len(all), err)
	}
	for i, info := range all {
		if info.ID != fmt.Sprintf("c%04d", i) || info.Image != fmt.Sprint("image ", i) || info.Status != Created {
			t.Fatalf("%d: %+v", i, info)
		}
	}
	for range All(t.Context(), d, "default") {
		break // one that wants no more ends it
	}
}
