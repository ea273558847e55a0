// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// TestUnrunnable: a program that is found and cannot be run has a shell's status, and Start says why.
func TestUnrunnable(t *testing.T) {
	for _, c := range []struct {
		name, text string
		status     int
		kind       func(error) bool
	}{
		{"interpreter", "#!/nosuch\n", 127, errdefs.IsNotFound},
		{"shebang", "echo\n", 126, errdefs.IsPermissionDenied},
		{"no shebang", "\n", 126, errdefs.IsPermissionDenied},
		{"machine", "\x7fELF\x02\x01\x01", 126, errdefs.IsPermissionDenied},
	} {
		k := newTask(t, "/program")
		must(t, os.WriteFile(filepath.Join(k.state, "upper/program"), []byte(c.text), 0o755))
		k.serve()
		if _, err := k.client.Create(t.Context(), k.request()); err != nil {
			// The engine has seen it before init did.
			if !c.kind(err) {
				t.Errorf("%s: %v", c.name, err)
			}
			<-k.gone
			k.nothingLeft()
			continue
		}
		_, err := k.client.Start(t.Context(), &taskapi.StartRequest{ID: k.id})
		t.Logf("%s: start: %v", c.name, err)
		if !c.kind(err) {
			t.Errorf("%s: %v", c.name, err)
		}
		if e := k.wait(); e.Status != c.status {
			t.Errorf("%s: exit %+v", c.name, e)
		}
		if _, err := os.Lstat(filepath.Join(k.dir, taskdir.Begun)); err == nil {
			t.Errorf("%s is recorded as started", c.name)
		}
		if got := k.topics(); got != "create exit" {
			t.Errorf("%s: events: %s", c.name, got)
		}
		k.nothingLeft()
	}
}

// runc finds an OCI engine for the tests.
func runc(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("runc")
	if err != nil {
		path, err = filepath.Abs("../../build/peers/bin/runc")
		if _, e := os.Stat(path); err != nil || e != nil {
			t.Skip("needs runc, on PATH or built by scripts/bench/peers")
		}
	}
	return path
}

func (k *task) useRunc(r *taskapi.CreateTaskRequest) (root string) {
	root = filepath.Join(k.state, "root")
	r.Options = taskapi.NewAny(&taskapi.Options{BinaryName: runc(k.T), Root: root})
	return root
}

// TestOCIEngine: the options name another engine and its state directory; all calls go through it.
func TestOCIEngine(t *testing.T) {
	k := newTask(t, "sh", "-c", "echo out; sleep 1000")
	r := k.request()
	root := k.useRunc(r)
	k.serve()
	k.createAndStart(r)
	if _, err := os.Stat(filepath.Join(root, namespace, k.id, "state.json")); err != nil {
		t.Errorf("the engine's state: %v", err)
	}
	if got := k.run("one", "echo", "hello"); got != "hello\n" {
		t.Errorf("exec %q", got)
	}
	ctx := t.Context()
	must(t, k.client.Update(ctx, &taskapi.UpdateTaskRequest{ID: k.id, Resources: &taskapi.Any{Value: []byte(`{"pids":{"limit":123}}`)}}))
	must(t, k.client.Pause(ctx, &taskapi.PauseRequest{ID: k.id}))
	must(t, k.client.Resume(ctx, &taskapi.ResumeRequest{ID: k.id}))
	must(t, k.client.Kill(ctx, &taskapi.KillRequest{ID: k.id, Signal: 9}))
	if e := k.wait(); e.Status != 137 {
		t.Errorf("exit %+v", e)
	}
	if out, _ := k.output(); out != "out\n" {
		t.Errorf("output %q", out)
	}
	if left, _ := os.ReadDir(filepath.Join(root, namespace)); len(left) > 0 {
		t.Errorf("the engine has kept %v", left)
	}
	k.nothingLeft()
}

// TestOCIEngineUndone: a Create that fails when the engine has made the container has it forgotten.
func TestOCIEngineUndone(t *testing.T) {
	c := newContainerd(t)
	k := bareTask(t, "sleep", "1000")
	r := k.request()
	root := k.useRunc(r)
	c.start(k)
	pid := k.supervisor()
	defer func() { unix.Kill(pid, unix.SIGKILL) }()
	inTheWay := filepath.Join(k.dir, "init.pid")
	must(t, os.Mkdir(inTheWay, 0o700))
	if _, err := k.client.Create(t.Context(), r); err == nil {
		t.Error("created")
	}
	if left, _ := os.ReadDir(filepath.Join(root, namespace)); len(left) > 0 {
		t.Errorf("the engine has kept %v", left)
	}
	must(t, os.Remove(inTheWay))
	os.Remove(filepath.Join(k.dir, ".init.pid")) // runc forgets it
	_, err := k.client.Create(t.Context(), r)
	must(t, err)
	_, err = k.client.Delete(t.Context(), &taskapi.DeleteRequest{ID: k.id})
	must(t, err)
	must(t, k.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: k.id}))
	k.ends(pid)
	k.nothingLeft()
}

// TestOCIEngineMissing: an engine that is not there is a clear error, and leaves nothing.
func TestOCIEngineMissing(t *testing.T) {
	k := newTask(t, "true")
	r := k.request()
	r.Options = taskapi.NewAny(&taskapi.Options{BinaryName: "/nosuch/engine"})
	k.serve()
	if _, err := k.client.Create(t.Context(), r); err == nil || !strings.Contains(err.Error(), "/nosuch/engine") {
		t.Errorf("create: %v", err)
	}
	<-k.gone
	k.nothingLeft()
}

// TestContainerdDeleteOCI: delete removes what an OCI engine keeps of a container whose supervisor was killed.
func TestContainerdDeleteOCI(t *testing.T) {
	c := newContainerd(t)
	k := bareTask(t, "sleep", "1000")
	r := k.request()
	root := k.useRunc(r)
	c.start(k)
	_, err := k.client.Create(t.Context(), r)
	must(t, err)
	_, err = k.client.Start(t.Context(), &taskapi.StartRequest{ID: k.id})
	must(t, err)
	pid := k.supervisor()
	must(t, unix.Kill(pid, unix.SIGKILL))
	k.ends(pid)
	c.call(k, nil, nil, "delete", "-bundle", k.dir)
	if left, _ := os.ReadDir(filepath.Join(root, namespace)); len(left) > 0 {
		t.Errorf("the engine has kept %v", left)
	}
	k.nothingLeft()
}

// TestEngineGone: when a client of containerd's API is told that its container has been created, the supervisor has no other process but init:
// the client may look next at what is in the cgroup that it has named for its shim.
func TestEngineGone(t *testing.T) {
	for range 10 {
		t.Run("", func(t *testing.T) {
			k := newTask(t, "sleep", "1000")
			k.record.IO = &taskdir.IO{}
			k.serve()
			made, err := k.client.Create(t.Context(), k.request())
			must(t, err)
			var children []string
			lists, err := filepath.Glob(filepath.Join("/proc", itoa(k.shim.Process.Pid), "task/*/children"))
			must(t, err)
			for _, list := range lists {
				b, err := os.ReadFile(list)
				if err == nil { // else the thread has ended
					children = append(children, strings.Fields(string(b))...)
				}
			}
			if len(children) != 1 || children[0] != itoa(int(made.Pid)) {
				t.Errorf("the children are %v, init is %d", children, made.Pid)
			}
		})
	}
}
