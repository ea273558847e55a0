// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// successor puts a program beside ctr-shim in ctr-task's place. It writes down its arguments, its mount
// namespace and whether the supervisor has let go of the task.
func (k *task) successor() (marker string) {
	k.Helper()
	marker = filepath.Join(k.state, "successor")
	bin := filepath.Join(k.state, "bin")
	must(k, os.MkdirAll(bin, 0o755))
	self := filepath.Join(bin, "ctr-shim")
	if _, err := os.Lstat(self); err != nil {
		must(k, os.Link(shimBinary, self))
	}
	text := "#!/bin/sh\n{ echo \"$@\"; readlink /proc/self/ns/mnt; } >'" + marker + ".tmp'; mv '" + marker + ".tmp' '" + marker + "'\n"
	must(k, os.WriteFile(filepath.Join(bin, "ctr-task"), []byte(text), 0o755))
	k.binary = self
	k.args = []string{"-root", "/r", "-state", k.state}
	return marker
}

func (k *task) succeeded(marker, verb string) {
	k.Helper()
	k.until("the successor", func() bool { _, err := os.Stat(marker); return err == nil })
	b, _ := os.ReadFile(marker)
	ns, _ := os.Readlink("/proc/self/ns/mnt")
	want := "--root /r --state " + k.state + " -n " + namespace + " " + verb + " --incarnation " + string(k.record.Incarnation) + " " + k.id + "\n" + ns + "\n"
	if string(b) != want {
		k.Errorf("got %q, want %q", b, want)
	}
}

func (k *task) notSucceeded(marker string) {
	k.Helper()
	k.wait()
	if b, err := os.ReadFile(marker); err == nil {
		k.Errorf("the supervisor called %q", b)
	}
}

// TestRemoval: the supervisor has the container removed when it is the owner, or becomes it by the leave of the
// client; a client that lives does so itself.
func TestRemoval(t *testing.T) {
	k := newTask(t, "true")
	marker := k.successor()
	k.record.Owner = taskdir.ByShim
	k.start()
	k.wait()
	k.succeeded(marker, "rm -f")

	k = newTask(t, "true")
	marker = k.successor()
	k.start()
	k.notSucceeded(marker)

	k = newTask(t, "true")
	marker = k.successor()
	k.record.Owner = taskdir.Client
	release := holdFile(t, filepath.Join(k.dir, taskdir.ClientLock))
	end := filepath.Join(k.dir, taskdir.End)
	ended := func() bool { _, err := os.Stat(end); return err == nil }
	k.start()
	k.until("the end", ended)
	must(t, os.Remove(end)) // the client is at the removal
	<-k.gone
	if b, err := os.ReadFile(marker); err == nil {
		t.Errorf("the supervisor called %q", b)
	}
	release()

	k = newTask(t, "true")
	marker = k.successor()
	k.record.Owner = taskdir.Client
	release = holdFile(t, filepath.Join(k.dir, taskdir.ClientLock))
	end = filepath.Join(k.dir, taskdir.End)
	k.start()
	k.until("the end", ended)
	release() // it was killed before it came to it
	k.wait()
	k.succeeded(marker, "rm -f")

	k = newTask(t, "sleep", "1000")
	marker = k.successor()
	k.record.Owner = taskdir.Client
	client, err := lock.Hold(filepath.Join(k.dir, taskdir.ClientLock))
	must(t, err)
	k.start()
	must(t, client.Remove())
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	if e := k.wait(); e.Reason != "" {
		t.Errorf("exit %+v", e)
	}
	k.succeeded(marker, "rm -f")
}

// TestClientDies: the death of the client that owns a container ends it, also before Start and while it is paused; that
// of another client does not.
func TestClientDies(t *testing.T) {
	for _, state := range []string{"created", "running", "paused"} {
		k := newTask(t, "sleep", "1000")
		marker := k.successor()
		k.record.Owner = taskdir.Client
		release := holdFile(t, filepath.Join(k.dir, taskdir.ClientLock))
		if state == "created" {
			k.serve()
			_, err := k.client.Create(t.Context(), k.request())
			must(t, err)
		} else {
			k.start()
		}
		if state == "paused" {
			must(t, k.client.Pause(t.Context(), &taskapi.PauseRequest{ID: k.id}))
		}
		release()
		if e := k.wait(); e.Status != 137 || e.Reason == "" {
			t.Errorf("exit %+v", e)
		}
		k.succeeded(marker, "rm -f")
		k.until("the successor's end", func() bool { return len(processesOf(k.id)) == 0 })
		k.nothingLeft()
	}
}

// letGo makes /go in the container, which ends at that. Its supervisor may end before it could tell how the exec
// ended.
func (k *task) letGo() {
	k.Helper()
	e := k.exec("go", false, false, "sh", "-c", "echo >/go")
	e.stdout.Close()
	e.stderr.Close()
	e.req.Stdout, e.req.Stderr = "", ""
	must(k, e.start())
}

// TestRestart: a policy starts the container again, with the record as it is at the end of the task.
func TestRestart(t *testing.T) {
	for _, c := range []struct {
		name     string
		policy   taskdir.Restart
		status   string
		stopping bool
		again    bool
	}{
		{"always", taskdir.Restart{Policy: "always"}, "0", false, true},
		{"unless-stopped", taskdir.Restart{Policy: "unless-stopped"}, "1", false, true},
		{"stopped", taskdir.Restart{Policy: "always"}, "1", true, false},
		{"no", taskdir.Restart{Policy: "no"}, "1", false, false},
		{"none", taskdir.Restart{}, "1", false, false},
		{"failed", taskdir.Restart{Policy: "on-failure"}, "1", false, true},
		{"succeeded", taskdir.Restart{Policy: "on-failure"}, "0", false, false},
		{"twice", taskdir.Restart{Policy: "on-failure", Max: 2, Count: 1}, "1", false, true},
		{"too often", taskdir.Restart{Policy: "on-failure", Max: 2, Count: 2}, "1", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newTask(t, "sh", "-c", "until [ -e /go ]; do sleep 0.01; done; exit "+c.status)
			marker := k.successor()
			k.start()
			// The policy is given while the task runs.
			k.record.Restart = c.policy
			must(t, taskdir.Write(k.dir, taskdir.Record, k.record))
			if c.stopping {
				must(t, os.WriteFile(filepath.Join(k.dir, taskdir.Stopping), nil, 0o600))
			}
			k.letGo()
			if c.again {
				k.wait()
				k.succeeded(marker, "start")
				k.until("the successor's end", func() bool { return len(processesOf(k.id)) == 0 })
			} else {
				k.notSucceeded(marker)
			}
			k.nothingLeft()
		})
	}
}

// TestBackoff: between the end and the restart the supervisor has the task, and whoever stops the task, or
// kills the supervisor, ends the wait.
func TestBackoff(t *testing.T) {
	for _, how := range []string{"stopping", "delete", "shutdown", "kill"} {
		t.Run(how, func(t *testing.T) {
			k := newTask(t, "sh", "-c", "exit 1")
			marker := k.successor()
			k.record.Restart = taskdir.Restart{Policy: "always", Count: 30}
			k.start()
			k.until("the exit", func() bool { _, err := os.Stat(filepath.Join(k.dir, taskdir.End)); return err == nil })
			if held, err := lock.IsHeld(filepath.Join(k.dir, taskdir.ShimLock)); !held || err != nil {
				t.Errorf("the supervisor has let go: %v, %v", held, err)
			}
			switch how {
			case "stopping":
				must(t, os.WriteFile(filepath.Join(k.dir, taskdir.Stopping), nil, 0o600))
			case "delete":
				_, err := k.client.Delete(t.Context(), &taskapi.DeleteRequest{ID: k.id})
				must(t, err)
			case "shutdown":
				must(t, k.client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: k.id, Now: true}))
			case "kill":
				must(t, k.shim.Process.Kill())
			}
			k.notSucceeded(marker)
			if how != "kill" {
				k.nothingLeft()
			}
		})
	}
}

// TestFullStateDirectory: the exit is recorded also when the file system of the task directory is full.
func TestFullStateDirectory(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	must(t, unix.Mount("tmpfs", k.dir, "tmpfs", 0, "size=256k"))
	must(t, os.Mkdir(filepath.Join(k.dir, "rootfs"), 0o755))
	// At that point nothing more becomes free before the exit is recorded.
	k.env = []string{"CTRD_STOP=shim.cleaned"}
	k.start()
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.until("the stop", func() bool {
		b, _ := os.ReadFile(filepath.Join("/proc", itoa(k.shim.Process.Pid), "stat"))
		return strings.Contains(string(b), ") T ")
	})
	fill(t, filepath.Join(k.dir, "fill"))
	must(t, k.shim.Process.Signal(unix.SIGCONT))
	if e := k.wait(); e.Status != 137 || e.Reason != "" {
		t.Errorf("exit %+v", e)
	}
	must(t, unix.Unmount(k.dir, unix.MNT_DETACH))
	k.nothingLeft()
}

// fill writes a file until its file system has no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	block := []byte(strings.Repeat("x", 4096))
	for err == nil {
		_, err = f.Write(block)
	}
}

// TestSignalBeforeProgram: a signal that comes before init is the program does what it does to a program.
func TestSignalBeforeProgram(t *testing.T) {
	for range 20 {
		k := newTask(t, "sleep", "1000")
		k.start()
		must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: uint32(unix.SIGTERM)}))
		// As process 1, sleep is not ended by it; what is wrong would be 2, from the engine's code.
		must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: uint32(unix.SIGKILL)}))
		if e := k.wait(); e.Status != 137 {
			t.Fatalf("exit %+v", e)
		}
	}
	k := newTask(t, "sleep", "1000")
	k.serve()
	_, err := k.client.Create(t.Context(), k.request())
	must(t, err)
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: uint32(unix.SIGWINCH)}))
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: uint32(unix.SIGTERM)}))
	if e := k.wait(); e.Status != 143 {
		t.Errorf("exit of a created container %+v", e)
	}
	k.nothingLeft()
}

// TestRestartIsToldOf: from the exit until the program that starts the task again has ended, the task is one that waits for
// its restart, also when its supervisor has let go of it.
func TestRestartIsToldOf(t *testing.T) {
	k := newTask(t, "sh", "-c", "exit 1")
	marker := k.successor()
	done := filepath.Join(k.state, "done")
	text := "#!/bin/sh\n>" + marker + "\nuntil test -e " + done + "; do sleep 0.01; done\n"
	must(t, os.WriteFile(filepath.Join(k.state, "bin", "ctr-task"), []byte(text), 0o755))
	k.record.Restart = taskdir.Restart{Policy: "always"}
	k.start()
	look := func() taskdir.View {
		v, err := taskdir.Look(k.dir)
		must(t, err)
		return v
	}
	k.until("the exit", func() bool { return look().State == taskdir.Stopped })
	k.until("the successor", func() bool {
		if !look().Restarting {
			t.Fatal("before the successor runs, the task does not wait for its restart")
		}
		_, err := os.Stat(marker)
		return err == nil
	})
	<-k.gone
	if v := look(); !v.Restarting || v.Supervised {
		t.Errorf("while the successor runs, the task is %+v", v)
	}
	must(t, os.WriteFile(done, nil, 0o600))
	k.until("the successor's end", func() bool { return !look().Restarting })
}
