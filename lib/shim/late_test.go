// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// lateEngine is an OCI engine that kills its supervisor when it is to create a container, and then runs last, in the
// shell, before it ends.
func (k *task) lateEngine(last string) (r *taskapi.CreateTaskRequest) {
	k.Helper()
	path := filepath.Join(k.state, "late")
	text := "#!/bin/sh\ncase \"$*\" in\n" +
		"*' create '*) read -r _ _ _ supervisor _ </proc/$PPID/stat; kill -9 $supervisor; exec sleep 1000;;\n" +
		"*' delete '*) " + last + ";;\nesac\n"
	must(k, os.WriteFile(path, []byte(text), 0o755))
	r = k.request()
	r.Options = taskapi.NewAny(&taskapi.Options{BinaryName: path, Root: filepath.Join(k.state, "root")})
	return r
}

// TestEngineOutlivesSupervisor: an engine that still works on the container of a supervisor that was killed is told of, so
// that nobody removes the task under it.
func TestEngineOutlivesSupervisor(t *testing.T) {
	k := newTask(t, "true")
	done := filepath.Join(k.state, "done")
	r := k.lateEngine("until test -e " + done + "; do sleep 0.01; done")
	k.serve()
	if _, err := k.client.Create(t.Context(), r); err == nil {
		t.Error("created")
	}
	<-k.gone
	must(t, k.starts.Release())
	k.starts = nil
	if v, err := taskdir.Look(k.dir); err != nil || v.State != taskdir.Orphaned || !v.Abandoned {
		t.Errorf("the engine works, and the task is %+v, %v", v, err)
	}
	must(t, os.WriteFile(done, nil, 0o600))
	k.until("the end of the engine", func() bool {
		v, err := taskdir.Look(k.dir)
		return err == nil && !v.Abandoned
	})
}

// TestContainerdDeleteBesideEngine: what containerd calls when a supervisor was killed waits for the engines that still
// work.
func TestContainerdDeleteBesideEngine(t *testing.T) {
	c := newContainerd(t)
	k := bareTask(t, "true")
	cgroup := filepath.Join("/sys/fs/cgroup", k.spec.Linux.CgroupsPath)
	if all, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs"); len(all) > 0 { // of v1
		cgroup = filepath.Join(filepath.Dir(all[0]), k.spec.Linux.CgroupsPath)
	}
	// The command asks the engine once more.
	r := k.lateEngine("if mkdir " + k.state + "/once; then sleep 0.5; mkdir " + cgroup + "; fi")
	c.start(k)
	pid := k.supervisor()
	if _, err := k.client.Create(t.Context(), r); err == nil {
		t.Error("created")
	}
	k.ends(pid)
	c.call(k, nil, nil, "delete", "-bundle", k.dir)
	k.until("the end of the engine", func() bool {
		held, err := lock.IsHeld(filepath.Join(k.dir, "engine.lock"))
		return !held && err == nil
	})
	k.nothingLeft()
}

// TestExecBesideEnd: a client whose exec fails since init has died finds the task stopped when it is told so.
func TestExecBesideEnd(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	r := k.request()
	path, dying := filepath.Join(k.state, "slow"), filepath.Join(k.state, "dying")
	text := "#!/bin/sh\ncase \"$*\" in *' exec '*) touch " + dying + "; until test -e " + dying + ".on; do sleep 0.01; done;; *' delete '*) sleep 0.5;; esac\n" +
		"exec " + runc(t) + " \"$@\"\n"
	must(t, os.WriteFile(path, []byte(text), 0o755))
	r.Options = taskapi.NewAny(&taskapi.Options{BinaryName: path, Root: filepath.Join(k.state, "root")})
	k.serve()
	_, err := k.client.Create(t.Context(), r)
	must(t, err)
	init, err := k.client.Start(t.Context(), &taskapi.StartRequest{ID: k.id})
	must(t, err)
	e := k.exec("x", false, false, "true")
	must(t, k.client.Exec(t.Context(), e.req))
	failed := make(chan error, 1)
	go func() {
		_, err := k.client.Start(t.Context(), &taskapi.StartRequest{ID: k.id, ExecID: "x"})
		failed <- err
	}()
	k.until("the exec is on its way", func() bool { _, err := os.Stat(dying); return err == nil })
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.until("the end of init", func() bool { return unix.Kill(int(init.Pid), 0) != nil })
	must(t, os.WriteFile(dying+".on", nil, 0o600))
	if err := <-failed; err == nil {
		t.Error("the exec has started")
	}
	if v, err := taskdir.Look(k.dir); err != nil || v.State != taskdir.Stopped {
		t.Errorf("the task is %+v, %v", v, err)
	}
}
