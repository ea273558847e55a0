// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// describe writes what a starter does before it asks for a Create.
func (k *task) describe() {
	k.Helper()
	b, err := json.Marshal(k.spec)
	must(k, err)
	must(k, os.WriteFile(filepath.Join(k.dir, "config.json"), b, 0o600))
	must(k, taskdir.Write(k.dir, taskdir.Record, k.record))
}

// join makes k a further container of first's supervisor.
func (k *task) join(first *task) {
	k.Helper()
	k.describe()
	k.client, k.gone = first.client, first.gone
	if _, err := k.client.Create(k.Context(), k.request()); err != nil {
		k.Fatalf("create: %v\n%s", err, first.shimLog())
	}
	if _, err := k.client.Start(k.Context(), &taskapi.StartRequest{ID: k.id}); err != nil {
		k.Fatalf("start: %v\n%s", err, first.shimLog())
	}
}

// run runs a program in the container and gives its output.
func (k *task) run(id string, args ...string) string {
	k.Helper()
	e := k.exec(id, false, false, args...)
	must(k, e.start())
	e.wait()
	out, err := io.ReadAll(e.stdout)
	must(k, err)
	e.stderr.Close()
	e.del()
	return string(out)
}

// TestTwoContainers: two containers of one supervisor have nothing in common, and one that is killed is not
// noticed by the other.
func TestTwoContainers(t *testing.T) {
	a := newTask(t, "sh", "-c", "echo a; echo a >/mine; until [ -e /go ]; do sleep 0.01; done; echo on; exit 3")
	b := newTask(t, "sh", "-c", "echo b >&2; echo b >/mine; sleep 1000")
	a.start()
	b.join(a)
	ctx := t.Context()
	for _, k := range []*task{a, b} {
		want := map[*task]string{a: "a\n", b: "b\n"}[k]
		k.until("the file", func() bool { return k.run("look", "cat", "/mine") == want })
	}
	for _, k := range []*task{a, b} {
		p, err := k.client.Pids(ctx, &taskapi.PidsRequest{ID: k.id})
		must(t, err)
		s, err := k.client.State(ctx, &taskapi.StateRequest{ID: k.id})
		must(t, err)
		if len(p.Processes) == 0 || s.Bundle != k.dir || s.Status != taskapi.StatusRunning {
			t.Errorf("%v, %+v", p.Processes, s)
		}
	}
	must(t, b.client.Pause(ctx, &taskapi.PauseRequest{ID: b.id}))
	if got := a.run("echo", "echo", "runs"); got != "runs\n" {
		t.Errorf("an exec beside a paused container: %q", got)
	}
	must(t, b.client.Resume(ctx, &taskapi.ResumeRequest{ID: b.id}))
	must(t, b.client.Kill(ctx, &taskapi.KillRequest{ID: b.id, Signal: 9}))
	w, err := b.client.Wait(context.Background(), &taskapi.WaitRequest{ID: b.id})
	if err != nil || w.ExitStatus != 137 {
		t.Fatalf("wait: %+v, %v", w, err)
	}
	if d, err := b.client.Delete(ctx, &taskapi.DeleteRequest{ID: b.id}); err != nil || d.ExitStatus != 137 {
		t.Errorf("delete: %+v, %v", d, err)
	}
	if s, err := a.client.State(ctx, &taskapi.StateRequest{ID: a.id}); err != nil || s.Status != taskapi.StatusRunning {
		t.Errorf("the other one: %+v, %v", s, err)
	}
	a.letGo()
	if e := a.wait(); e.Status != 3 {
		t.Errorf("exit %+v", e)
	}
	if e := b.wait(); e.Status != 137 {
		t.Errorf("exit %+v", e)
	}
	if out, errOut := a.output(); out != "a\non\n" || errOut != "" {
		t.Errorf("output %q %q", out, errOut)
	}
	if out, errOut := b.output(); out != "" || errOut != "b\n" {
		t.Errorf("output %q %q", out, errOut)
	}
	a.nothingLeft()
	b.nothingLeft()
}

// TestSecondContainerFails: a container that cannot be created disturbs no other.
func TestSecondContainerFails(t *testing.T) {
	a, b := newTask(t, "sleep", "1000"), newTask(t, "nosuch")
	a.start()
	must(t, os.WriteFile(filepath.Join(b.dir, "config.json"), []byte("{"), 0o600))
	for range 2 {
		if _, err := a.client.Create(t.Context(), b.request()); err == nil {
			t.Error("created")
		}
	}
	if s, err := a.client.State(t.Context(), &taskapi.StateRequest{ID: a.id}); err != nil || s.Status != taskapi.StatusRunning {
		t.Errorf("the other one: %+v, %v", s, err)
	}
	must(t, a.client.Kill(t.Context(), &taskapi.KillRequest{ID: a.id, Signal: 9}))
	a.wait()
	a.nothingLeft()
	b.nothingLeft()
}

// TestInheritedDescriptors: what the starter has left open is closed, in the supervisor and in the program.
func TestInheritedDescriptors(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	marker := filepath.Join(k.state, "marker")
	f, err := os.Create(marker)
	must(t, err)
	defer f.Close()
	k.files = []*os.File{f, f, f}
	k.start()
	pids, err := k.client.Pids(t.Context(), &taskapi.PidsRequest{ID: k.id})
	must(t, err)
	for _, pid := range []int{k.shim.Process.Pid, int(pids.Processes[0].Pid)} {
		if open := descriptors(pid); strings.Contains(open, marker) {
			t.Errorf("process %d has it open:\n%s", pid, open)
		}
	}
}

func descriptors(pid int) string {
	var all bytes.Buffer
	dir := filepath.Join("/proc", itoa(pid), "fd")
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		to, _ := os.Readlink(filepath.Join(dir, e.Name()))
		all.WriteString(e.Name() + " " + to + "\n")
	}
	return all.String()
}

// TestKillOfExecLeavesPaused: an exec that is killed while its container is paused dies when that goes on, and
// does not make it go on.
func TestKillOfExecLeavesPaused(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	ctx := t.Context()
	e := k.exec("one", false, false, "sleep", "1000")
	must(t, e.start())
	must(t, k.client.Pause(ctx, &taskapi.PauseRequest{ID: k.id}))
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, ExecID: "one", Signal: uint32(unix.SIGKILL)}))
	if s, err := k.client.State(ctx, &taskapi.StateRequest{ID: k.id}); err != nil || s.Status != taskapi.StatusPaused {
		t.Errorf("after the kill: %+v, %v", s, err)
	}
	must(t, k.client.Resume(ctx, &taskapi.ResumeRequest{ID: k.id}))
	if st := e.wait(); st != 137 {
		t.Errorf("status %d", st)
	}
	// The exec may end, and that be told, before the call that resumes it comes to tell of itself.
	k.until("the exec's events", func() bool {
		last, found := strings.CutPrefix(k.topics(), "create start exec-added exec-started paused ")
		return found && (last == "resumed exit" || last == "exit resumed")
	})
}

// TestExecsOfKilledClients: what clients of execs have left behind when they were killed is collected by the next
// exec: a directory that was never asked about, an exec that was not started, one that has ended.
func TestExecsOfKilledClients(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	ctx := t.Context()
	locked := func(id string) (release func()) {
		return holdFile(t, filepath.Join(k.dir, "execs", id, taskdir.ClientLock))
	}
	made := k.exec("made", false, false, "true")
	release := locked("made")
	added := k.exec("added", false, false, "true")
	releaseAdded := locked("added")
	must(t, k.client.Exec(ctx, added.req))
	ended := k.exec("ended", false, false, "true")
	releaseEnded := locked("ended")
	must(t, ended.start())
	ended.wait()
	lives := k.exec("lives", false, false, "true")
	defer locked("lives")()
	for _, e := range []*execution{made, added, ended, lives} {
		e.stdout.Close()
		e.stderr.Close()
		old := time.Now().Add(-time.Hour)
		must(t, os.Chtimes(filepath.Join(k.dir, "execs", e.id), old, old))
	}
	release()
	releaseAdded()
	releaseEnded()
	k.run("next", "true")
	entries, err := os.ReadDir(filepath.Join(k.dir, "execs"))
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != "lives" {
		t.Errorf("left: %v", entries)
	}
}

// another makes k an incarnation in a directory of its own, as a start of a container that was started before does.
func (k *task) another() *task {
	k.Helper()
	next := *k
	next.dir += ".next"
	next.record.Incarnation = taskdir.NewIncarnation()
	must(k, os.Rename(k.dir, k.dir+".trash"))
	must(k, os.MkdirAll(filepath.Join(next.dir, taskdir.Rootfs), 0o755))
	k.Cleanup(next.cleanUp)
	return &next
}

// TestNextIncarnation: a further container of a supervisor can be created again in another directory, once it has ended, and
// while its Create, whose caller is gone, still goes on.
func TestNextIncarnation(t *testing.T) {
	a, b, c := newTask(t, "sleep", "1000"), newTask(t, "sh", "-c", "echo on"), newTask(t, "sh", "-c", "echo on")
	a.start()
	t.Run("ended", func(t *testing.T) {
		b.join(a)
		b.until("end", func() bool {
			_, err := os.Stat(filepath.Join(b.dir, taskdir.End))
			return err == nil
		})
		next := b.another()
		next.join(a)
		next.until("output", func() bool { out, _ := next.output(); return out == "on\non\n" })
	})
	t.Run("under way", func(t *testing.T) {
		going, goOn, engine := filepath.Join(c.state, "going"), filepath.Join(c.state, "go"), filepath.Join(c.state, "slow")
		text := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *' create '*) >%s; until [ -e %s ]; do sleep 0.01; done; exit 1;; esac\n", going, goOn)
		must(t, os.WriteFile(engine, []byte(text), 0o755))
		c.describe()
		r := c.request()
		r.Options = taskapi.NewAny(&taskapi.Options{BinaryName: engine, Root: filepath.Join(c.state, "root")})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		answer := make(chan error, 1)
		go func() {
			_, err := a.client.Create(ctx, r)
			answer <- err
		}()
		c.until("the engine's work", func() bool {
			if len(answer) > 0 {
				t.Fatal(<-answer)
			}
			_, err := os.Stat(going)
			return err == nil
		})
		cancel()
		next := c.another()
		time.AfterFunc(200*time.Millisecond, func() { _ = os.WriteFile(goOn, nil, 0o600) })
		next.join(a)
		next.until("output", func() bool { out, _ := next.output(); return out == "on\n" })
	})
	must(t, a.client.Kill(t.Context(), &taskapi.KillRequest{ID: a.id, Signal: 9}))
	a.wait()
	a.nothingLeft()
}
