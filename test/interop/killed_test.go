// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// TestKilledDaemon: tasks do not notice, and the next daemon knows them all, those too that ended meanwhile.
func TestKilledDaemon(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		d.background(t, "runs", "sleep 1000")
		d.background(t, "ends", "while ! test -e /end; do sleep 0.05; done; exit 3")
		d.background(t, "paused", "sleep 1000")
		d.must(t, "task", "pause", "paused")
		pid, _ := d.task(t, "runs")
		ends, _ := d.task(t, "ends")
		d.kill()
		if err := syscall.Kill(pid, 0); err != nil {
			t.Fatalf("the container ended with the daemon: %v", err)
		}
		file := fmt.Sprintf("/proc/%d/root/end", ends)
		if fd, err := syscall.Open(file, syscall.O_CREAT|syscall.O_WRONLY, 0o644); err != nil {
			t.Fatal(err)
		} else {
			syscall.Close(fd)
		}
		until(t, "a container ends", func() error {
			if err := syscall.Kill(ends, 0); err == nil {
				return fmt.Errorf("it runs")
			}
			return nil
		})
		d.start(t)
		if again, status := d.task(t, "runs"); again != pid || status != "RUNNING" {
			t.Errorf("%s with pid %d, want RUNNING with %d", status, again, pid)
		}
		d.awaitStatus(t, "paused", "PAUSED")
		// A daemon deletes the tasks without processes that it finds when it starts.
		d.awaitStatus(t, "ends", "")
		if r := d.exec(t, "runs", "sh", "-c", "exit 4"); r.status != 4 {
			t.Errorf("exec: %s", r)
		}
		d.must(t, "task", "resume", "paused")
		w := d.watch(t)
		d.must(t, "task", "kill", "-s", "KILL", "runs")
		d.awaitStatus(t, "runs", "STOPPED")
		until(t, "the new daemon has the event", func() error {
			if len(w.of("/tasks/exit")) != 1 {
				return fmt.Errorf("%v", w.of("/tasks"))
			}
			return nil
		})
		d.remove(t, "runs", "ends", "paused")
	})
}

// TestKilledBetweenCreateAndStart: a created task waits for its start, whoever asks for it.
func TestKilledBetweenCreateAndStart(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		ctx, client := d.client(t)
		image, err := client.GetImage(ctx, busybox)
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.NewContainer(ctx, "c", containerd.WithNewSnapshot("c", image), containerd.WithRuntime(d.runtime, nil),
			containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("sh", "-c", "exit 8")))
		if err != nil {
			t.Fatal(err)
		}
		task, err := c.NewTask(ctx, cio.NullIO)
		if err != nil {
			t.Fatal(err)
		}
		pid := task.Pid()
		if pid == 0 || d.status(t, "c") != "CREATED" {
			t.Fatalf("pid %d, %s", pid, d.status(t, "c"))
		}
		d.kill()
		d.start(t)
		ctx, client = d.client(t)
		if c, err = client.LoadContainer(ctx, "c"); err != nil {
			t.Fatal(err)
		}
		if task, err = c.Task(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if task.Pid() != pid {
			t.Errorf("pid %d, want %d", task.Pid(), pid)
		}
		wait, err := task.Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := task.Start(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case s := <-wait:
			if s.ExitCode() != 8 || s.Error() != nil {
				t.Errorf("status %d, %v", s.ExitCode(), s.Error())
			}
			if ago := time.Since(s.ExitTime()); ago < 0 || ago > patience {
				t.Errorf("it ended %s ago", ago)
			}
		case <-ctx.Done():
			t.Fatal("it does not end")
		}
		if err := task.Start(ctx); err == nil {
			t.Error("a task was started twice")
		}
		d.remove(t, "c")

		// One that is never started can be deleted.
		if c, err = client.NewContainer(ctx, "never", containerd.WithNewSnapshot("never", image), containerd.WithRuntime(d.runtime, nil),
			containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("true"))); err != nil {
			t.Fatal(err)
		}
		if task, err = c.NewTask(ctx, cio.NullIO); err != nil {
			t.Fatal(err)
		}
		if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil {
			t.Errorf("delete of a created task: %v", err)
		}
		d.remove(t, "never")
	})
}

// TestKilledShim: the daemon notices, what the shim left is cleaned up, and the container can be used again.
func TestKilledShim(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		w := d.watch(t)
		d.background(t, "c", "sleep 1000 & sleep 1001 & wait")
		pid, _ := d.task(t, "c")
		d.must(t, "task", "exec", "-d", "--exec-id", "x", "c", "sleep", "2000")
		running := d.shims()
		if len(running) != 1 {
			t.Fatalf("shims: %v", running)
		}
		if err := syscall.Kill(running[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, "the daemon has noticed", func() error {
			if status := d.status(t, "c"); status != "" {
				return fmt.Errorf("the task is %s", status)
			}
			return nil
		})
		until(t, "the exit is told", func() error {
			exits := w.of("/tasks/exit")
			if len(exits) == 0 || exits[0].payload["container_id"] != "c" || exits[0].payload["exit_status"] != 137.0 {
				return fmt.Errorf("exits: %v", exits)
			}
			return nil
		})
		until(t, "the container has ended", func() error {
			if err := syscall.Kill(pid, 0); err == nil {
				return fmt.Errorf("%s", commandOf(pid))
			}
			return nil
		})
		d.settle(t)
		d.must(t, "task", "start", "-d", "c")
		if r := d.exec(t, "c", "true"); r.status != 0 {
			t.Errorf("exec after a new start: %s", r)
		}
		d.remove(t, "c")
	})
}

// TestKilledBoth: shim and daemon are gone; the next daemon cleans up.
func TestKilledBoth(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		d.background(t, "c", "sleep 1000")
		running := d.shims()
		d.kill()
		for _, pid := range running {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		d.start(t)
		if status := d.status(t, "c"); status != "" {
			t.Errorf("the task is %s", status)
		}
		d.settle(t)
		d.must(t, "containers", "rm", "c")
	})
}
