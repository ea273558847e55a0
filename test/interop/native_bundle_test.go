// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// bundles is where containerd has the bundles of its tasks, below its state directory.
const bundles = "io.containerd.runtime.v2.task"

// TestNativeBundle: what containerd's tools look for in the bundle of a task that a client has made is where containerd has it, and is
// true. What is written to the log of a shim is in the log of the server, also what was written while none ran. Two namespaces have
// a container of the same id, which has dots in it. With the tasks all of that goes.
func TestNativeBundle(t *testing.T) {
	withTasks(t, func(t *testing.T, n *tasker) {
		const id = "a.b-c_1.d"
		other := *n
		other.namespace += "-2"
		other.ctx = namespaces.WithNamespace(n.ctx, other.namespace)
		defer removeCgroups(other.namespace)
		other.command(t, "ctr-pull", "-q", busybox)
		spaces := map[string]*tasker{"one": n, "two": &other}
		tasks := map[string]containerd.Task{}
		for name, one := range spaces {
			tasks[name] = one.create(t, one.container(t, id, []string{"sleep", "1000", name}), new(output))
		}
		for name, one := range spaces {
			one.wantBundle(t, id, name, tasks[name])
			one.write(t, id, "first of "+name)
		}
		told := func(times int, text string) {
			t.Helper()
			until(t, text+" in the server's log", func() error {
				if got := strings.Count(n.log.String(), text); got != times {
					return fmt.Errorf("%d times, want %d", got, times)
				}
				return nil
			})
		}
		told(1, "namespace="+n.namespace+" container="+id+` text="first of one"`)
		told(1, "namespace="+other.namespace+" container="+id+` text="first of two"`)

		n.end(t, syscall.SIGTERM)
		n.write(t, id, "second of one") // there is no server, and this does not wait for one
		n.start(t)
		told(1, "second of one")
		n.end(t, syscall.SIGKILL)
		n.write(t, id, "third of one")
		n.start(t)
		told(1, "third of one")
		told(1, "second of one")
		for name, one := range spaces {
			one.wantBundle(t, id, name, tasks[name])
		}

		for name, one := range spaces {
			if err := tasks[name].Start(one.ctx); err != nil {
				t.Fatal(err)
			}
			one.wantBundle(t, id, name, tasks[name])
			n.Whole(t)
			if _, err := tasks[name].Delete(one.ctx, containerd.WithProcessKill); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(filepath.Join(n.State, bundles, one.namespace)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("of a namespace without tasks there is still: %v", err)
			}
			c, err := n.client.LoadContainer(one.ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			one.remove(t, c)
		}
		other.command(t, "ctr-image", "rm", busybox)
	})
}

// wantBundle looks at the bundle of a task that sleeps.
func (n *tasker) wantBundle(t *testing.T, id, argument string, task containerd.Task) {
	t.Helper()
	dir := filepath.Join(n.State, bundles, n.namespace, id)
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	var spec specs.Spec
	if err := json.Unmarshal([]byte(read("config.json")), &spec); err != nil || len(spec.Process.Args) != 3 || spec.Process.Args[2] != argument {
		t.Errorf("config.json: %+v, %v", spec.Process, err)
	}
	if got := read("init.pid"); got != strconv.Itoa(int(task.Pid())) {
		t.Errorf("init.pid is %q, the task's is %d", got, task.Pid())
	}
	var shim struct{ PID int }
	records, _ := filepath.Glob(filepath.Join(n.State, "tasks", n.namespace, id, "*", "shim.json"))
	if len(records) != 1 {
		t.Fatalf("%d tasks", len(records))
	}
	text, err := os.ReadFile(records[0])
	if err == nil {
		err = json.Unmarshal(text, &shim)
	}
	if err != nil {
		t.Fatal(err)
	}
	if runs, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", shim.PID)); err != nil || read("shim-binary-path") != runs {
		t.Errorf("shim-binary-path is %q, the shim is %q, %v", read("shim-binary-path"), runs, err)
	}
	// A root that is mounted where only the container sees it is not made to look like an empty one.
	foreign := n.runtime != "io.containerd.runc.v2"
	if _, err := os.Stat(filepath.Join(dir, "rootfs", "bin", "sh")); (err == nil) != foreign {
		t.Errorf("rootfs: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "rootfs")); (err == nil) != foreign {
		t.Errorf("rootfs: %v", err)
	}
}

// write adds a line to the log of a task's shim as a program does that knows containerd's.
func (n *tasker) write(t *testing.T, id, line string) {
	t.Helper()
	path := filepath.Join(n.State, bundles, n.namespace, id, "log")
	opened := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString(line + "\n")
			err = errors.Join(err, f.Close())
		}
		opened <- err
	}()
	ctx, cancel := context.WithTimeout(n.ctx, patience)
	defer cancel()
	select {
	case err := <-opened:
		if err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatalf("nobody reads %s", path)
	}
}
