// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"
)

// withDriver is withNative with a root on which a snapshotter can work.
func withDriver(t *testing.T, name string) *native {
	t.Helper()
	if name != "btrfs" {
		return withNative(t)
	}
	file, at := filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "at")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range [][]string{{"truncate", "-s", "2G", file}, {"mkfs.btrfs", "-q", file}, {"mount", "-o", "loop", file, at}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v: %s", cmd, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err, unix.Unmount(at, unix.MNT_DETACH))
		}
	})
	return withRoot(t, "", filepath.Join(at, "root"))
}

// TestNativeDrivers: containerd's client pulls and unpacks with each snapshotter, and runs a container; it learns what each can.
func TestNativeDrivers(t *testing.T) {
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))})
	for name, can := range map[string][]string{
		"overlayfs": {"remap-ids", "only-remap-ids", "rebase"}, "native": {"remap-ids", "only-remap-ids"},
		"btrfs": {"remap-ids", "only-remap-ids"}, "erofs": {"remap-ids", "only-remap-ids", "rebase"},
	} {
		t.Run(name, func(t *testing.T) {
			n := withDriver(t, name)
			ctx := namespaces.WithNamespace(t.Context(), "default")
			got, err := n.client.GetSnapshotterCapabilities(ctx, name)
			if err != nil || !slices.Equal(got, can) {
				t.Errorf("capabilities %q, want %q: %v", got, can, err)
			}
			image, err := n.client.Pull(ctx, registry+"/multi:1", containerd.WithPullUnpack, containerd.WithPullSnapshotter(name), containerd.WithResolver(resolver))
			if err != nil {
				t.Fatal(err)
			}
			c, err := n.client.NewContainer(ctx, "c", containerd.WithSnapshotter(name), containerd.WithNewSnapshot("c", image),
				containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("sh", "-c", "echo text >/new && cat /new && ls /bin/sh")))
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			task, err := c.NewTask(ctx, cio.NewCreator(cio.WithStreams(nil, &out, &out)))
			if err != nil {
				t.Fatal(err)
			}
			exit, err := task.Wait(ctx)
			if err == nil {
				err = task.Start(ctx)
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := <-exit; s.ExitCode() != 0 {
				t.Errorf("status %d: %s", s.ExitCode(), out.String())
			}
			if _, err := task.Delete(ctx); err != nil {
				t.Error(err)
			}
			if got := out.String(); got != "text\n/bin/sh\n" {
				t.Errorf("%q", got)
			}
			if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
				t.Error(err)
			}
			if out := n.Must(t, "ctrd", "fsck"); out != "" {
				t.Errorf("fsck: %s", out)
			}
		})
	}
}
