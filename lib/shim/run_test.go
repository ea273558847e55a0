// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

func TestRun(t *testing.T) {
	k := newTask(t, "sh", "-c", "echo out; echo err >&2; echo hi >/file; exit 7")
	k.start()
	if e := k.wait(); e.Status != 7 || e.OOM || e.Reason != "" || time.Since(e.ExitedAt) > time.Minute {
		t.Errorf("exit %+v", e)
	}
	out, errOut := k.output()
	if out != "out\n" || errOut != "err\n" {
		t.Errorf("output %q, %q", out, errOut)
	}
	if b, err := os.ReadFile(filepath.Join(k.state, "upper/file")); string(b) != "hi\n" {
		t.Errorf("rootfs: %q %v", b, err)
	}
	if got := k.topics(); got != "create start exit" {
		t.Errorf("events: %s", got)
	}
	k.nothingLeft()
}

func TestWaitAndState(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.serve()
	ctx := t.Context()
	if _, err := k.client.State(ctx, &taskapi.StateRequest{ID: k.id}); !errdefs.IsNotFound(err) {
		t.Errorf("state before create: %v", err)
	}
	if _, err := k.client.Start(ctx, &taskapi.StartRequest{ID: k.id}); !errdefs.IsNotFound(err) {
		t.Errorf("start before create: %v", err)
	}
	if _, err := k.client.Create(ctx, &taskapi.CreateTaskRequest{ID: "other", Bundle: k.dir}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("create of another in the same bundle: %v", err)
	}
	c, err := k.client.Create(ctx, k.request())
	must(t, err)
	if _, err := k.client.Create(ctx, k.request()); !errdefs.IsAlreadyExists(err) {
		t.Errorf("create again: %v", err)
	}
	state := func() taskapi.StateResponse {
		s, err := k.client.State(ctx, &taskapi.StateRequest{ID: k.id})
		must(t, err)
		return *s
	}
	if s := state(); s.Status != taskapi.StatusCreated || s.Pid != c.Pid || s.Bundle != k.dir {
		t.Errorf("after create: %+v", s)
	}
	var p struct{ PID uint32 }
	k.readJSON("init.json", &p)
	if p.PID != c.Pid {
		t.Errorf("init.json says %d, create %d", p.PID, c.Pid)
	}
	waited := make(chan *taskapi.WaitResponse, 1)
	go func() {
		w, _ := k.client.Wait(context.Background(), &taskapi.WaitRequest{ID: k.id})
		waited <- w
	}()
	s, err := k.client.Start(ctx, &taskapi.StartRequest{ID: k.id})
	must(t, err)
	must(t, k.starts.Release())
	k.starts = nil
	if s.Pid != c.Pid || state().Status != taskapi.StatusRunning {
		t.Errorf("after start: %+v", state())
	}
	if _, err := k.client.Start(ctx, &taskapi.StartRequest{ID: k.id}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start again: %v", err)
	}
	if _, err := k.client.Delete(ctx, &taskapi.DeleteRequest{ID: k.id}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of running: %v", err)
	}
	if c, err := k.client.Connect(ctx, &taskapi.ConnectRequest{ID: k.id}); err != nil || c.TaskPid != s.Pid || int(c.ShimPid) != k.shim.Process.Pid {
		t.Errorf("connect: %+v %v", c, err)
	}
	if err := k.client.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: k.id}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("checkpoint into no directory: %v", err)
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE} {
		must(t, k.shim.Process.Signal(sig))
	}
	if state().Status != taskapi.StatusRunning {
		t.Error("a signal to the supervisor ended something")
	}
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, Signal: 9}))
	if w := <-waited; w == nil || w.ExitStatus != 137 || w.ExitedAt.IsZero() {
		t.Errorf("wait: %+v", w)
	}
	if e := k.wait(); e.Status != 137 {
		t.Errorf("exit %+v", e)
	}
	k.nothingLeft()
}

func TestProgramsThatCannotRun(t *testing.T) {
	for _, c := range []struct {
		args []string
		kind func(error) bool
		text string
	}{
		{[]string{"nosuch"}, errdefs.IsNotFound, `exec: "nosuch": executable file not found in $PATH`},
		{[]string{"/nosuch"}, errdefs.IsNotFound, `exec: "/nosuch": stat /nosuch: no such file or directory`},
		{[]string{"/etc/passwd"}, errdefs.IsPermissionDenied, `exec: "/etc/passwd": permission denied`},
		{[]string{"/etc"}, errdefs.IsPermissionDenied, `exec: "/etc": is a directory`},
	} {
		k := newTask(t, c.args...)
		k.serve()
		_, err := k.client.Create(t.Context(), k.request())
		if err == nil || !c.kind(err) || err.Error() != c.text {
			t.Errorf("%q: %v", c.args, err)
		}
		<-k.gone
		k.nothingLeft()
		if got := k.topics(); got != "" {
			t.Errorf("events: %s", got)
		}
	}
}

func TestCreateThatFails(t *testing.T) {
	for name, spoil := range map[string]func(*task, *taskapi.CreateTaskRequest){
		"config": func(k *task, _ *taskapi.CreateTaskRequest) {
			k.spec.Mounts = append(k.spec.Mounts, specs.Mount{Destination: "/x", Source: "/nosuch", Options: []string{"bind"}})
		},
		"no process": func(k *task, _ *taskapi.CreateTaskRequest) { k.spec.Process = nil },
		"rootfs":     func(_ *task, r *taskapi.CreateTaskRequest) { r.Rootfs[0].Options[0] = "lowerdir=/nosuch" },
		"stdin":      func(_ *task, r *taskapi.CreateTaskRequest) { r.Stdin = "/nosuch" },
		"stdout":     func(_ *task, r *taskapi.CreateTaskRequest) { r.Stdout = "log://nosuch" },
		"binary":     func(_ *task, r *taskapi.CreateTaskRequest) { r.Stdout = "binary-v2:///bin/true" },
		"bundle":     func(_ *task, r *taskapi.CreateTaskRequest) { r.Bundle = "/" },
		"cgroup path": func(k *task, _ *taskapi.CreateTaskRequest) {
			k.spec.Linux.Resources.Unified = map[string]string{"no.such": "1"}
		},
	} {
		k := newTask(t, "true")
		r := k.request()
		terminal := r.Terminal
		spoil(k, r)
		if k.spec.Process == nil {
			r.Terminal = terminal
		}
		k.serve()
		_, err := k.client.Create(t.Context(), r)
		if err == nil {
			t.Errorf("%s: created", name)
			continue
		}
		t.Logf("%s: %v", name, err)
		if name == "bundle" {
			must(t, k.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: k.id}))
		}
		<-k.gone
		k.nothingLeft()
	}
}

func TestSecondSupervisor(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	first, gone := k.shim, k.gone
	must(t, os.Rename(filepath.Join(k.dir, "start.lock"), filepath.Join(k.dir, "x")))
	err := k.tryServe()
	if err == nil || !strings.Contains(err.Error(), "shim.lock is held by") {
		t.Errorf("second supervisor: %v", err)
	}
	<-k.gone
	k.shim, k.gone = first, gone
	if _, err := k.client.State(t.Context(), &taskapi.StateRequest{ID: k.id}); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

// TestStarterDies: a supervisor whose starter dies before Create ends. What is created is kept until it is
// started, by another process.
func TestStarterDies(t *testing.T) {
	k := newTask(t, "true")
	k.serve()
	must(t, k.starts.Release())
	k.starts = nil
	<-k.gone
	k.nothingLeft()

	k = newTask(t, "sh", "-c", "exit 4")
	k.serve()
	_, err := k.client.Create(t.Context(), k.request())
	must(t, err)
	must(t, k.starts.Release())
	k.starts = nil
	must(t, k.client.Close())
	select {
	case <-k.gone:
		t.Fatal("the supervisor ended")
	case <-time.After(2500 * time.Millisecond): // more than two looks at the lock
	}
	v, err := taskdir.Look(k.dir)
	if err != nil || v.State != taskdir.Created {
		t.Errorf("%+v, %v", v, err)
	}
	k.client, err = taskapi.Dial(t.Context(), v.Supervisor.Address)
	must(t, err)
	_, err = k.client.Start(t.Context(), &taskapi.StartRequest{ID: k.id})
	must(t, err)
	if e := k.wait(); e.Status != 4 || e.Reason != "" {
		t.Errorf("exit %+v", e)
	}
	k.nothingLeft()
}

func TestShutdown(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	must(t, k.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: k.id}))
	if _, err := k.client.State(t.Context(), &taskapi.StateRequest{ID: k.id}); err != nil {
		t.Fatalf("shut down with a container: %v", err)
	}
	must(t, k.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: k.id, Now: true}))
	if e := k.wait(); e.Status != 137 || e.Reason == "" {
		t.Errorf("exit %+v", e)
	}
	k.nothingLeft()
}

func TestHostPidNamespaceLeavesNoProcess(t *testing.T) {
	k := newTask(t, "sh", "-c", "setsid sleep 1000 & setsid sh -c 'sleep 1001' & echo $!; sleep 0.1; exit 3")
	k.spec.Linux.Namespaces = k.spec.Linux.Namespaces[1:]
	k.start()
	if e := k.wait(); e.Status != 3 {
		t.Errorf("exit %+v", e)
	}
	k.nothingLeft()
}

func TestKillAll(t *testing.T) {
	k := newTask(t, "sh", "-c", "sleep 1000 & sleep 1001 & trap 'exit 5' USR1; echo ready; while :; do wait; done")
	k.start()
	k.until("output", func() bool { out, _ := k.output(); return out == "ready\n" })
	pids, err := k.client.Pids(t.Context(), &taskapi.PidsRequest{ID: k.id})
	must(t, err)
	if len(pids.Processes) != 3 {
		t.Errorf("pids: %v", pids.Processes)
	}
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: uint32(unix.SIGUSR1), All: true}))
	if e := k.wait(); e.Status != 5 {
		t.Errorf("exit %+v", e)
	}
	k.nothingLeft()
}

func TestPause(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	ctx := t.Context()
	must(t, k.client.Pause(ctx, &taskapi.PauseRequest{ID: k.id}))
	s, err := k.client.State(ctx, &taskapi.StateRequest{ID: k.id})
	must(t, err)
	if s.Status != taskapi.StatusPaused {
		t.Errorf("status %v", s.Status)
	}
	if err := k.client.Pause(ctx, &taskapi.PauseRequest{ID: k.id}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("pause again: %v", err)
	}
	must(t, k.client.Resume(ctx, &taskapi.ResumeRequest{ID: k.id}))
	if err := k.client.Resume(ctx, &taskapi.ResumeRequest{ID: k.id}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("resume again: %v", err)
	}
	must(t, k.client.Pause(ctx, &taskapi.PauseRequest{ID: k.id}))
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, Signal: 9}))
	if e := k.wait(); e.Status != 137 {
		t.Errorf("exit %+v", e)
	}
	if got := k.topics(); got != "create start paused resumed paused exit" {
		t.Errorf("events: %s", got)
	}
	k.nothingLeft()
}

func TestOOM(t *testing.T) {
	k := newTask(t, "sh", "-c", "x=x; while :; do x=$x$x; done")
	limit := int64(8 << 20)
	k.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	k.start()
	if e := k.wait(); e.Status != 137 || !e.OOM {
		t.Errorf("exit %+v", e)
	}
	if got := k.topics(); got != "create start oom exit" {
		t.Errorf("events: %s", got)
	}
	k.nothingLeft()
}

func TestUpdateAndStats(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	ctx := t.Context()
	must(t, k.client.Update(ctx, &taskapi.UpdateTaskRequest{ID: k.id, Resources: &taskapi.Any{Value: []byte(`{"pids":{"limit":123},"memory":{"limit":67108864}}`)}}))
	var m taskapi.Metrics
	// Until it has become the program, init has threads.
	k.until("a single thread", func() bool {
		r, err := k.client.Stats(ctx, &taskapi.StatsRequest{ID: k.id})
		must(t, err)
		m, err = taskapi.ParseMetrics(r.Stats)
		must(t, err)
		return m.Pids == 1
	})
	if m.PidsLimit != 123 || m.MemoryLimit != 64<<20 || m.MemoryUsage == 0 || m.CPUUsage == 0 {
		t.Errorf("metrics %+v", m)
	}
	if err := k.client.Update(ctx, &taskapi.UpdateTaskRequest{ID: k.id, Resources: &taskapi.Any{Value: []byte(`{"pids":`)}}); err == nil {
		t.Error("bad resources were taken")
	}
}

// TestDeleteOfCreated: a container that waits for Start can be deleted.
func TestDeleteOfCreated(t *testing.T) {
	k := newTask(t, "true")
	k.serve()
	_, err := k.client.Create(t.Context(), k.request())
	must(t, err)
	d, err := k.client.Delete(t.Context(), &taskapi.DeleteRequest{ID: k.id})
	if err != nil || d.ExitStatus != 137 {
		t.Errorf("delete: %+v, %v", d, err)
	}
	if e := k.wait(); e.Status != 137 || e.Reason == "" {
		t.Errorf("exit %+v", e)
	}
	if _, err := os.Lstat(filepath.Join(k.dir, taskdir.Begun)); err == nil {
		t.Error("it is recorded as started")
	}
	k.nothingLeft()
}

// TestJournalHeld: who holds the journal's lock delays neither a call nor the end of the supervisor for long.
func TestJournalHeld(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	l, err := lock.Dir{Path: k.journal().Dir}.Acquire(t.Context(), nil, lock.Database, "journal", lock.Exclusive)
	must(t, err)
	defer l.Release()
	k.start()
	if got := k.run("one", "echo", "hello"); got != "hello\n" {
		t.Errorf("exec %q", got)
	}
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	if e := k.wait(); e.Status != 137 {
		t.Errorf("exit %+v", e)
	}
	k.nothingLeft()
}
