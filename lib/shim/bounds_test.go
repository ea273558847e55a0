// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/shim"
	"ctrd.dev/ctrd/lib/taskapi"
)

// TestEndBesideHangingExec: an engine that hangs does not keep the end of the container from being recorded.
func TestEndBesideHangingExec(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	k.closeEntry()
	spec := taskapi.Any{Value: []byte(`{"args":["true"],"cwd":"/"}`)}
	must(t, k.client.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: k.id, ExecID: "x", Spec: &spec}))
	// The engine waits for somebody to write it.
	process := filepath.Join(k.dir, "execs/x/process.json")
	must(t, os.Remove(process))
	must(t, unix.Mkfifo(process, 0o600))
	started := make(chan error, 1)
	go func() {
		_, err := k.client.Start(t.Context(), &taskapi.StartRequest{ID: k.id, ExecID: "x"})
		started <- err
	}()
	k.until("the engine", func() bool {
		for _, p := range processesOf(k.id) {
			if strings.Contains(p, "engine exec") {
				return true
			}
		}
		return false
	})
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	if e := k.wait(); e.Status != 137 {
		t.Errorf("exit %+v", e)
	}
	if err := <-started; err == nil {
		t.Error("the exec was started")
	}
	k.nothingLeft()
}

// TestStartOfFrozen: Start of an init that somebody has frozen ends in the client's time, and can be tried again.
func TestStartOfFrozen(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.serve()
	ctx := t.Context()
	_, err := k.client.Create(ctx, k.request())
	must(t, err)
	must(t, cgroup.Freeze(ctx, k.spec.Linux.CgroupsPath))
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := k.client.Start(short, &taskapi.StartRequest{ID: k.id}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start: %v", err)
	}
	// It waits until the supervisor has given up, too.
	within, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := k.client.ResizePty(within, &taskapi.ResizePtyRequest{ID: k.id}); err != nil {
		t.Errorf("after start: %v", err)
	}
	if s, err := k.client.State(ctx, &taskapi.StateRequest{ID: k.id}); err != nil || s.Status != taskapi.StatusCreated {
		t.Errorf("after start: %+v, %v", s, err)
	}
	must(t, cgroup.Thaw(k.spec.Linux.CgroupsPath))
	_, err = k.client.Start(ctx, &taskapi.StartRequest{ID: k.id})
	must(t, err)
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.wait()
	k.nothingLeft()
}

// TestOCIEngineKilled: an OCI engine does not keep a container whose creator is killed before it can tell of it, be that
// after the engine has succeeded or while it works.
func TestOCIEngineKilled(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	r := k.request()
	root := k.useRunc(r)
	k.env = []string{"CTRD_CRASH=engine.create.started"}
	k.serve()
	if _, err := k.client.Create(t.Context(), r); err == nil {
		t.Error("created")
	}
	<-k.gone
	if left, _ := os.ReadDir(filepath.Join(root, namespace)); len(left) > 0 {
		t.Errorf("the engine has kept %v", left)
	}
	k.nothingLeft()

	k = newTask(t, "sleep", "1000")
	r = k.request()
	root = k.useRunc(r)
	late := filepath.Join(k.state, "late")
	text := "#!/bin/sh\ncase \"$*\" in *' create '*) kill -9 $PPID; sleep 1;; esac\nexec " + runc(t) + " \"$@\"\n"
	must(t, os.WriteFile(late, []byte(text), 0o755))
	r.Options = taskapi.NewAny(&taskapi.Options{BinaryName: late, Root: root})
	k.serve()
	if _, err := k.client.Create(t.Context(), r); err == nil {
		t.Error("created")
	}
	<-k.gone
	if left, _ := os.ReadDir(filepath.Join(root, namespace)); len(left) > 0 {
		t.Errorf("the engine has kept %v", left)
	}
	k.nothingLeft()
}

// TestKillAllOfEnded: a signal to all of a container that has ended is told to have found nothing.
func TestKillAllOfEnded(t *testing.T) {
	c := newContainerd(t)
	k := bareTask(t, "true")
	c.start(k)
	pid := k.supervisor()
	defer func() { unix.Kill(pid, unix.SIGKILL) }()
	k.mustRun()
	_, err := k.client.Wait(t.Context(), &taskapi.WaitRequest{ID: k.id})
	must(t, err)
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGTERM} {
		err := k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: uint32(sig), All: true})
		if !errdefs.IsNotFound(err) {
			t.Errorf("signal %d: %v", sig, err)
		}
	}
	k.mustDelete()
	must(t, k.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: k.id}))
	k.ends(pid)
	k.nothingLeft()
}

// TestKillAllOfExec: as with containerd's shims a signal to an exec reaches the exec alone.
func TestKillAllOfExec(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.start()
	ctx := t.Context()
	spec := taskapi.Any{Value: []byte(`{"args":["/bin/sleep","1000"],"cwd":"/"}`)}
	must(t, k.client.Exec(ctx, &taskapi.ExecProcessRequest{ID: k.id, ExecID: "x", Spec: &spec}))
	_, err := k.client.Start(ctx, &taskapi.StartRequest{ID: k.id, ExecID: "x"})
	must(t, err)
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, ExecID: "x", Signal: 9, All: true}))
	w, err := k.client.Wait(ctx, &taskapi.WaitRequest{ID: k.id, ExecID: "x"})
	if err != nil || w.ExitStatus != 137 {
		t.Errorf("exec: %+v, %v", w, err)
	}
	if s, err := k.client.State(ctx, &taskapi.StateRequest{ID: k.id}); err != nil || s.Status != taskapi.StatusRunning {
		t.Errorf("container: %+v, %v", s, err)
	}
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.wait()
	k.nothingLeft()
}

// TestSupervisorThatTalks: a supervisor that says more than an address takes no memory for it.
func TestSupervisorThatTalks(t *testing.T) {
	k := bareTask(t, "true")
	b, err := json.Marshal(k.spec)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(k.dir, "config.json"), b, 0o600))
	s := shim.Bootstrap{Namespace: namespace, ID: k.id, Bundle: k.dir, Sockets: filepath.Join(k.state, "s")}
	_, err = shim.Start(t.Context(), s, []string{"/bin/sh", "-c", "head -c 10000000 /dev/zero | tr '\\0' x"})
	if err == nil || len(err.Error()) > 1<<13 {
		t.Errorf("start: %.100v", err)
	}
	must(t, os.RemoveAll(filepath.Join(k.state, "s")))
	k.nothingLeft()
}
