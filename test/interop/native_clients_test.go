// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/runtime/restart"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// TestNativeMeantToRun: a container that the labels of containerd's restart monitor mean to run is started again when it
// ends, and a label counts that; also where containerd's shim is installed.
func TestNativeMeantToRun(t *testing.T) {
	withTasks(t, func(t *testing.T, n *tasker) {
		if n.runtime != "io.containerd.runc.v2" {
			return // a foreign shim keeps no policy
		}
		for _, n.peers = range []bool{false, true} {
			n.end(t, syscall.SIGTERM)
			n.start(t)
			c, err := n.client.NewContainer(n.ctx, "c1", containerd.WithNewSpec(oci.WithDefaultPathEnv, oci.WithProcessArgs("sleep", "1000")), containerd.WithRuntime(n.runtime, nil),
				containerd.WithContainerLabels(map[string]string{restart.StatusLabel: "running"}), containerd.WithSnapshotter("overlayfs"),
				func(_ context.Context, _ *containerd.Client, c *containers.Container) error {
					c.SnapshotKey = "c1"
					return nil
				})
			if err != nil {
				t.Fatal(err)
			}
			var out output
			task := n.create(t, c, &out)
			if err := task.Start(n.ctx); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(int(task.Pid()), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			until(t, "it runs again", func() error {
				again, err := c.Task(n.ctx, nil)
				if err != nil {
					return err
				}
				s, err := again.Status(n.ctx)
				if err == nil && (again.Pid() == task.Pid() || s.Status != containerd.Running) {
					err = fmt.Errorf("pid %d, %s", again.Pid(), s.Status)
				}
				return err
			})
			if labels, err := c.Labels(n.ctx); err != nil || labels[restart.CountLabel] != "1" {
				t.Errorf("labels %v, %v", labels, err)
			}
			n.command(t, "ctr-task", "stop", "-t", "0", "c1")
			again, err := c.Task(n.ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := again.Delete(n.ctx); err != nil {
				t.Error(err)
			}
			n.remove(t, c)
		}
	})
}

// TestNativeShimOptions: the shim is born in the cgroup that the task's options name, goes before ctrd when memory is short,
// and has the engine keep its state where they say.
func TestNativeShimOptions(t *testing.T) {
	withTasks(t, func(t *testing.T, n *tasker) {
		if n.runtime != "io.containerd.runc.v2" {
			return // a foreign shim reads them itself
		}
		root, group := filepath.Join(t.TempDir(), "engine"), "/"+n.namespace+"-shim"
		n.options = &options.Options{Root: root, ShimCgroup: group}
		c := n.container(t, "c1", []string{"sleep", "1000"})
		var out output
		task := n.create(t, c, &out)
		if err := task.Start(n.ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, n.namespace, "c1", "state.json")); err != nil {
			t.Errorf("state of the engine: %v", err)
		}
		groups, err := filepath.Glob("/sys/fs/cgroup/*" + group)
		if more, _ := filepath.Glob("/sys/fs/cgroup" + group); err == nil {
			groups = append(groups, more...)
		}
		if len(groups) == 0 {
			t.Fatalf("there is no cgroup %s", group)
		}
		for _, g := range groups {
			pids, err := os.ReadFile(filepath.Join(g, "cgroup.procs"))
			if err != nil || len(strings.Fields(string(pids))) == 0 {
				t.Errorf("%s: %q, %v", g, pids, err)
			}
			for _, pid := range strings.Fields(string(pids)) {
				if score, own := oomScore(t, pid), oomScore(t, "self"); score != min(own+1, 1000) {
					t.Errorf("score %d of process %s beside ctrd with %d", score, pid, own)
				}
			}
		}
		if err := task.Kill(n.ctx, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		if _, err := task.Delete(n.ctx, containerd.WithProcessKill); err != nil {
			t.Error(err)
		}
		n.remove(t, c)
		if left, _ := os.ReadDir(filepath.Join(root, n.namespace)); len(left) > 0 {
			t.Errorf("left of the engine: %v", left)
		}
		for _, g := range groups {
			until(t, "the cgroup is empty", func() error { return os.Remove(g) })
		}
	})
}

func oomScore(t *testing.T, pid string) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/oom_score_adj")
	if err == nil {
		_, err = fmt.Sscan(string(text), &n)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
