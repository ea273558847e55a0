// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
)

// disk makes a file with an empty xfs in it, with the directories root and work.
func disk(t *testing.T) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.xfs")
	if err != nil {
		t.Skipf("needs mkfs.xfs: %v", err)
	}
	file := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 300<<20); err != nil { // xfs takes no less
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	root := t.TempDir()
	if err := mount.All([]mount.Mount{{Type: "xfs", Source: file, Options: []string{"loop"}}}, root); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"root", "work"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Error(err)
		}
	}
	if err := mount.UnmountAll(root, 0); err != nil {
		t.Fatal(err)
	}
	return file
}

// loopsOf lists the loop devices of a file.
func loopsOf(file string) (all []string) {
	names, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, n := range names {
		if text, _ := os.ReadFile(n); strings.TrimSpace(string(text)) == file {
			all = append(all, n)
		}
	}
	return all
}

// TestNativeMounts: containerd's client of the mount manager.
func TestNativeMounts(t *testing.T) {
	n := withNative(t)
	ctx, m := in("default"), n.client.MountManager()
	bind := []mount.Mount{{Type: "bind", Source: t.TempDir(), Options: []string{"rbind", "ro"}}}
	if all, err := m.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("list: %v, %v", all, err)
	}
	if _, err := m.Activate(ctx, "plain", bind); !errdefs.IsNotImplemented(err) {
		t.Errorf("what the client can mount itself: %v", err)
	}
	ctx, done, err := n.client.WithLease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mounts := append(bind, mount.Mount{Type: "format/overlay", Source: "overlay", Options: []string{"lowerdir={{ mount 0 }}:" + t.TempDir()}})
	got, err := m.Activate(ctx, "one", mounts, mount.WithLabels(map[string]string{"a": "1"}))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Active) != 1 || len(got.System) != 1 || got.System[0].Type != "overlay" || !strings.HasPrefix(got.System[0].Options[0], "lowerdir="+got.Active[0].MountPoint+":/") {
		t.Errorf("%+v", got)
	}
	if _, err := m.Activate(ctx, "one", mounts); !errdefs.IsAlreadyExists(err) {
		t.Errorf("again: %v", err)
	}
	if info, err := m.Info(ctx, "one"); err != nil || fmt.Sprint(info.System) != fmt.Sprint(got.System) || info.Labels["a"] != "1" || info.Active[0].MountedAt == nil {
		t.Errorf("info: %+v, %v", info, err)
	}
	if info, err := m.Update(ctx, mount.ActivationInfo{Name: "one", Labels: map[string]string{"b": "2"}}, "labels.b"); err != nil || len(info.Labels) != 2 {
		t.Errorf("update: %+v, %v", info, err)
	}
	if all, err := m.List(ctx); err != nil || len(all) != 1 || all[0].Name != "one" {
		t.Errorf("list: %v, %v", all, err)
	}
	// Another server has it too.
	n.end(t, syscall.SIGKILL)
	n.start(t)
	if _, err := m.Info(ctx, "one"); err != nil {
		t.Errorf("after a kill: %v", err)
	}
	if _, err := m.Activate(ctx, "two", mounts, mount.WithTemporary); err != nil {
		t.Error(err)
	}
	if err := m.Deactivate(ctx, "one"); err != nil {
		t.Error(err)
	}
	if err := m.Deactivate(ctx, "one"); !errdefs.IsNotFound(err) {
		t.Errorf("deactivate again: %v", err)
	}
	// The end of the lease is the end of the other.
	if err := done(ctx); err != nil {
		t.Error(err)
	}
	n.Must(t, "ctrd", "gc")
	if _, err := m.Info(ctx, "two"); !errdefs.IsNotFound(err) {
		t.Errorf("without its lease: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(n.State, "mounts")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestNativeMountAtRuntime: a task whose root is put together from what ctrd mounts for it; both go with it.
func TestNativeMountAtRuntime(t *testing.T) {
	withTasks(t, func(t *testing.T, n *tasker) {
		file := disk(t)
		root := append(n.rootfs(t, "lower"),
			mount.Mount{Type: "xfs", Source: file, Options: []string{"loop"}},
			mount.Mount{Type: "format/overlay", Source: "overlay", Options: []string{"lowerdir={{ mount 0 }}", "upperdir={{ mount 1 }}/root", "workdir={{ mount 1 }}/work"}})
		for _, step := range []struct{ id, program, want string }{
			{"first", "echo kept >/kept", ""},
			{"second", "cat /kept", "kept\n"},
		} {
			var out output
			c := n.container(t, step.id, []string{"sh", "-c", step.program})
			task, err := c.NewTask(n.ctx, cio.NewCreator(cio.WithStreams(nil, &out, &out), cio.WithFIFODir(n.State+"-fifo")), containerd.WithRootFS(root))
			if err != nil {
				t.Fatal(err)
			}
			info, err := n.client.MountManager().Info(n.ctx, step.id)
			if err != nil || len(info.Active) != 2 || info.Labels["containerd.io/gc.bref.container"] != step.id {
				t.Errorf("%+v, %v", info, err)
			}
			ended, err := task.Wait(n.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := task.Start(n.ctx); err != nil {
				t.Fatal(err)
			}
			<-ended
			if step.id == "second" { // not deleted by a client: the container's end is its end
				n.command(t, "ctr-task", "rm", step.id)
				n.Must(t, "ctrd", "gc")
			} else if _, err := task.Delete(n.ctx); err != nil {
				t.Error(err)
			}
			if _, err := n.client.MountManager().Info(n.ctx, step.id); !errdefs.IsNotFound(err) {
				t.Errorf("after the task: %v", err)
			}
			if out.String() != step.want {
				t.Errorf("%s: %q", step.id, out.String())
			}
			if step.id == "first" {
				if err := c.Delete(n.ctx); err != nil {
					t.Error(err)
				}
			}
		}
		if loops := loopsOf(file); len(loops) > 0 {
			t.Errorf("left: %v", loops)
		}
		n.command(t, "ctr-snap", "rm", "lower")
	})
}
