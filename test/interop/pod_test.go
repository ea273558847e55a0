// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The annotation that puts a container into a sandbox.
const (
	sandboxKey = "io.kubernetes.cri.sandbox-id"
	sandboxID  = sandboxKey + "=pod"
)

// create starts a container that runs a shell script, with a specification that ctr has no options for.
func (d *daemon) create(t *testing.T, id, script, log string, opts ...oci.SpecOpts) {
	t.Helper()
	ctx, client := d.client(t)
	image, err := client.GetImage(ctx, busybox)
	if err != nil {
		t.Fatal(err)
	}
	opts = append([]oci.SpecOpts{oci.WithImageConfig(image), oci.WithProcessArgs("sh", "-c", script)}, opts...)
	c, err := client.NewContainer(ctx, id, containerd.WithNewSnapshot(id, image), containerd.WithRuntime(d.runtime, nil), containerd.WithNewSpec(opts...))
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(log)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.NewTask(ctx, cio.LogURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestPod: containers of one sandbox have one shim, and else nothing in common.
func TestPod(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		// Volumes that are shared reach the host from the second container too.
		volume := filepath.Join(d.dir, "volume")
		if err := os.Mkdir(volume, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", volume, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("", volume, "", syscall.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		log := func(id string) string { return "file://" + filepath.Join(d.dir, id+".log") }
		d.background(t, "pod", "echo I am pod; sleep 1000", "--annotation", sandboxID, "--log-uri", log("pod"))
		d.background(t, "a", "echo I am a; touch /a; sleep 1000", "--annotation", sandboxID, "--log-uri", log("a"))
		// ctr has no option for the propagation of the root.
		d.create(t, "b", "echo I am b; touch /b; mkdir -p /v/in && mount -t tmpfs in /v/in && echo seen >/v/in/file; while ! test -e /end; do sleep 0.05; done; exit 6",
			log("b"), oci.WithAnnotations(map[string]string{sandboxKey: "pod"}), oci.WithPrivileged, oci.WithMounts([]specs.Mount{
				{Type: "bind", Source: volume, Destination: "/v", Options: []string{"rbind", "rshared"}},
			}), func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
				s.Linux.RootfsPropagation = "rshared"
				return nil
			})
		d.background(t, "other", "sleep 1000", "--annotation", "io.kubernetes.cri.sandbox-id=other")
		if got := d.shims(); len(got) != 2 {
			t.Errorf("two sandboxes have the shims %v", got)
		}
		for _, id := range []string{"pod", "a", "b"} {
			until(t, id+" has its own log", func() error {
				text, err := os.ReadFile(filepath.Join(d.dir, id+".log"))
				if string(text) != "I am "+id+"\n" {
					return fmt.Errorf("%q, %v", text, err)
				}
				return nil
			})
		}
		until(t, "the mount is seen", func() error {
			_, err := os.Stat(filepath.Join(volume, "in/file"))
			return err
		})
		// The same exec id in two containers.
		d.must(t, "task", "exec", "-d", "--exec-id", "x", "a", "sleep", "2000")
		d.must(t, "task", "exec", "-d", "--exec-id", "x", "b", "sleep", "2000")
		for id, want := range map[string]string{"a": "/a", "b": "/b"} {
			if r := d.exec(t, id, "sh", "-c", "ls -d /a /b 2>/dev/null"); r.stdout != want+"\n" {
				t.Errorf("the files of %s: %s", id, r)
			}
		}

		d.must(t, "task", "kill", "-s", "KILL", "a")
		d.awaitStatus(t, "a", "STOPPED")
		for _, id := range []string{"pod", "b"} {
			if r := d.exec(t, id, "true"); r.status != 0 {
				t.Errorf("after a was killed: %s", r)
			}
		}
		d.remove(t, "a")
		if r := d.exec(t, "b", "touch", "/end"); r.status != 0 {
			t.Error(r)
		}
		d.awaitStatus(t, "b", "STOPPED")
		if r := d.ctr(t, "task", "rm", "b"); !strings.Contains(r.stderr, "non-zero exit code 6") {
			t.Errorf("want status 6: %s", r)
		}
		d.background(t, "late", "sleep 1000", "--annotation", sandboxID)
		if got := d.shims(); len(got) != 2 {
			t.Errorf("two sandboxes have the shims %v", got)
		}
		d.remove(t, "b", "pod", "late", "other")
		if err := syscall.Unmount(filepath.Join(volume, "in"), 0); err != nil && err != syscall.EINVAL {
			t.Error(err)
		}
		if err := syscall.Unmount(volume, 0); err != nil {
			t.Error(err)
		}
	})
}

// TestPodKilledDaemon: the next daemon finds all containers of a sandbox.
func TestPodKilledDaemon(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		pids := map[string]int{}
		for _, id := range []string{"pod", "a", "b"} {
			d.background(t, id, "sleep 1000", "--annotation", sandboxID)
			pids[id], _ = d.task(t, id)
		}
		d.kill()
		d.start(t)
		for id, want := range pids {
			if pid, status := d.task(t, id); pid != want || status != "RUNNING" {
				t.Errorf("%s: %s with pid %d, want %d", id, status, pid, want)
			}
			if r := d.exec(t, id, "true"); r.status != 0 {
				t.Error(r)
			}
		}
		d.remove(t, "a", "b", "pod")
	})
}

// TestPodKilledShim: all containers of the sandbox are cleaned up.
func TestPodKilledShim(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		for _, id := range []string{"pod", "a"} {
			d.background(t, id, "sleep 1000", "--annotation", sandboxID)
		}
		running := d.shims()
		if len(running) != 1 {
			t.Fatalf("shims: %v", running)
		}
		if err := syscall.Kill(running[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"pod", "a"} {
			until(t, "the daemon has noticed", func() error {
				if status := d.status(t, id); status != "" {
					return fmt.Errorf("%s is %s", id, status)
				}
				return nil
			})
		}
		d.settle(t)
		d.remove(t, "a", "pod")
	})
}

// TestMany: starts side by side, each with its own shim and its own status.
func TestMany(t *testing.T) {
	withDaemon(t, func(t *testing.T, d *daemon) {
		const n = 10
		results := make(chan error, n)
		for i := range n {
			go func() {
				id := "c" + strconv.Itoa(i)
				cmd := d.command(t.Context(), "run", "--runtime", d.runtime, "--rm", busybox, id, "sh", "-c", "exit "+strconv.Itoa(i))
				out, _ := cmd.CombinedOutput()
				if got := cmd.ProcessState.ExitCode(); got != i {
					results <- fmt.Errorf("%s: status %d: %s", id, got, out)
					return
				}
				results <- nil
			}()
		}
		for range n {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	})
}
