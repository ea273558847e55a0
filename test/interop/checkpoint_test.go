// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/typeurl/v2"

	"ctrd.dev/ctrd/test/world"
)

// counts is a program that writes a growing number into a file of its container.
const counts = "n=0; while true; do n=$((n+1)); echo $n >/new; mv /new /count; sleep 0.05; done"

// runner runs commands of containerd's ctr, by its own server or by ctrd.
type runner func(t *testing.T, args ...string) result

func (ctr runner) must(t *testing.T, args ...string) string {
	t.Helper()
	r := ctr(t, args...)
	if r.status != 0 {
		t.Fatal(r)
	}
	return strings.TrimSpace(r.stdout)
}

// count gives the number that a container has come to.
func (ctr runner) count(t *testing.T, id string) (n int) {
	t.Helper()
	r := ctr(t, "task", "exec", "--exec-id", "e"+strconv.Itoa(os.Getpid())+fmt.Sprint(len(id)), id, "cat", "/count")
	n, _ = strconv.Atoi(strings.TrimSpace(r.stdout))
	return n
}

// counted waits until a container has come to more than a number.
func (ctr runner) counted(t *testing.T, id string, more int) {
	t.Helper()
	until(t, "it counts", func() error {
		if n := ctr.count(t, id); n <= more {
			return fmt.Errorf("%s is at %d, want more than %d", id, n, more)
		}
		return nil
	})
}

func (ctr runner) remove(t *testing.T, id string) {
	t.Helper()
	ctr.must(t, "task", "rm", "-f", id)
	ctr.must(t, "containers", "rm", id)
}

// checkpoints makes checkpoints in each way that ctr has, and goes on from each. It leaves the image of one of a task and
// of one of a container, and the numbers that they are at.
func checkpoints(t *testing.T, ctr runner, client *containerd.Client, runtime, dir string, options ...string) (ofTask, ofContainer string, at int) {
	run := func(id string) {
		t.Helper()
		ctr.must(t, append(append([]string{"run", "--runtime", runtime, "-d"}, options...), busybox, id, "sh", "-c", counts)...)
	}
	// An image of a task, which runs on; a second container goes on from it.
	run("c")
	ctr.counted(t, "c", 5)
	at = ctr.count(t, "c")
	ofTask = ctr.must(t, "task", "checkpoint", "c")
	nextName := time.Now().Add(time.Second) // containerd's client names a checkpoint by the second
	ctr.counted(t, "c", at+5)
	ctr.must(t, "containers", "create", "--runtime", runtime, busybox, "d", "sh", "-c", counts)
	goOn(t, client, "d", ofTask)
	ctr.counted(t, "d", at)
	ctr.remove(t, "d")

	// A directory; the container ends with it.
	images := filepath.Join(dir, "images")
	at = ctr.count(t, "c")
	time.Sleep(time.Until(nextName))
	ctr.must(t, "task", "checkpoint", "--exit", "--image-path", images, "c")
	until(t, "it has ended", func() error {
		if r := ctr(t, "task", "ls", "-q"); strings.Contains(ctr.must(t, "task", "ls"), "RUNNING") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	if found, _ := filepath.Glob(filepath.Join(images, "core-*.img")); len(found) == 0 {
		t.Error("there is nothing in the directory")
	}
	ctr.remove(t, "c")

	// A whole container, with its files.
	run("c")
	ctr.counted(t, "c", 5)
	ofContainer, at = "docker.io/library/whole:1", ctr.count(t, "c")
	ctr.must(t, "containers", "checkpoint", "--rw", "--image", "--task", "c", ofContainer)
	ctr.counted(t, "c", at+5)
	ctr.remove(t, "c")
	ctr.must(t, "containers", "restore", "--rw", "--live", "e", ofContainer)
	ctr.counted(t, "e", at)
	ctr.remove(t, "e")
	return ofTask, ofContainer, at
}

// goOn starts a task of a container from an image of a task, which ctr itself cannot.
func goOn(t *testing.T, client *containerd.Client, id, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	img, err := client.GetImage(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.LoadContainer(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.NewTask(ctx, cio.NewCreator(cio.WithStreams(nil, io.Discard, io.Discard), cio.WithFIFODir(t.TempDir())), containerd.WithTaskCheckpoint(img))
	if err == nil {
		err = task.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// dial gives a client of a server, for a namespace.
func dial(t *testing.T, socket, namespace string) *containerd.Client {
	t.Helper()
	client, err := containerd.New(socket, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// withCriu has the daemons of the test find criu, as containerd's shim looks for it.
func withCriu(t *testing.T) {
	t.Helper()
	t.Setenv("PATH", filepath.Dir(world.Criu(t))+":"+os.Getenv("PATH"))
}

// TestCheckpoints: containerd makes checkpoints with our shim as with its own, and an image that it has made goes on with
// ctr-task.
func TestCheckpoints(t *testing.T) {
	withCriu(t)
	withDaemon(t, func(t *testing.T, d *daemon) {
		ofTask, ofContainer, at := checkpoints(t, d.ctr, dial(t, filepath.Join(d.dir, "sock"), d.namespace), d.runtime, d.dir)
		w := world.New(t, bin)
		for i, name := range []string{ofTask, ofContainer} {
			id, there := "c"+strconv.Itoa(i), fmt.Sprintf("%s/%s:%d", registry, strings.ToLower(mark), i)
			d.must(t, "images", "tag", name, there)
			d.must(t, "images", "push", "--local", "--plain-http", there)
			w.Must(t, "ctr-pull", "-q", there)
			w.Must(t, "ctrd", "gc")
			w.Whole(t)
			w.Must(t, "ctr-task", "restore", "-q", "--image", there, "--name", id)
			until(t, "it counts", func() error {
				if n, _ := strconv.Atoi(strings.TrimSpace(w.Run(t, nil, "ctr-task", "exec", id, "cat", "/count").Stdout)); n <= at {
					return fmt.Errorf("it is at %d, want more than %d", n, at)
				}
				return nil
			})
			w.Must(t, "ctr-task", "rm", "-f", id)
		}
		d.must(t, "images", "rm", "--sync", ofTask, ofContainer)
	})
}

// TestNativeCheckpoints: the same by ctrd, and containerd goes on from what was made there, unless a process writes to a FIFO: those
// of containerd's shim have pipes.
func TestNativeCheckpoints(t *testing.T) {
	withCriu(t)
	n := withNative(t)
	ctr := func(t *testing.T, args ...string) result {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := (&daemon{dir: filepath.Dir(n.socket()), namespace: "default"}).command(ctx, args...)
		cmd.Args[2] = n.socket()
		return finish(t, ctx, cmd)
	}
	runner(ctr).must(t, "images", "pull", "--local", "--plain-http", busybox)
	ofTask, ofContainer, at := checkpoints(t, ctr, dial(t, n.socket(), "default"), "io.containerd.runc.v2", n.Dir, "--null-io")
	d := newDaemon(t, "")
	d.must(t, "images", "pull", "--plain-http", busybox)
	there := map[string]string{}
	for i, name := range []string{ofTask, ofContainer} {
		there[name] = fmt.Sprintf("%s/%s:native-%d", registry, strings.ToLower(mark), i)
		n.Must(t, "ctr-push", "-q", name, there[name])
		d.must(t, "content", "fetch", "--plain-http", there[name])
	}
	n.Must(t, "ctr-image", "rm", ofTask, ofContainer, busybox)
	ofTask, ofContainer = there[ofTask], there[ofContainer]

	d.must(t, "containers", "restore", "--rw", "--live", "c", ofContainer)
	runner(d.ctr).counted(t, "c", at)
	runner(d.ctr).remove(t, "c")
	d.must(t, "containers", "create", busybox, "d", "sh", "-c", counts)
	goOn(t, dial(t, filepath.Join(d.dir, "sock"), d.namespace), "d", ofTask)
	runner(d.ctr).counted(t, "d", at)
	runner(d.ctr).remove(t, "d")
}

// TestNativeCheckpointOfShims: a checkpoint that a client asks for without a word of where criu is to work, with each shim.
func TestNativeCheckpointOfShims(t *testing.T) {
	withCriu(t)
	withTasks(t, func(t *testing.T, n *tasker) {
		c := n.container(t, "c", []string{"sleep", "1000"})
		task, err := c.NewTask(n.ctx, cio.NullIO, containerd.WithRootFS(n.rootfs(t, "c")))
		if err != nil {
			t.Fatal(err)
		}
		ended, err := task.Wait(n.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := task.Start(n.ctx); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		o, err := typeurl.MarshalAnyToProto(&options.CheckpointOptions{ImagePath: dir})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.client.TaskService().Checkpoint(n.ctx, &tasks.CheckpointTaskRequest{ContainerID: "c", Options: o}); err != nil {
			t.Error(err)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) == 0 {
			t.Errorf("criu's images: %v, %v", files, err)
		}
		if err := task.Kill(n.ctx, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		<-ended
		if _, err := task.Delete(n.ctx); err != nil {
			t.Error(err)
		}
		n.remove(t, c)
	})
}
