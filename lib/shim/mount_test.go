// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskapi"
)

// TestMountsAndTheHost: on a host whose mounts are shared, as systemd makes them, the rootfs does not show,
// and what is mounted in a volume with shared propagation does, both ways.
func TestMountsAndTheHost(t *testing.T) {
	k := newTask(t, "sh", "-c", "busybox mount -t tmpfs none /vol/inner && echo mounted; until [ -e /vol/outer/file ]; do sleep 0.01; done; echo seen; sleep 1000")
	vol := filepath.Join(k.state, "vol")
	for _, d := range []string{"inner", "outer"} {
		must(t, os.MkdirAll(filepath.Join(vol, d), 0o755))
	}
	must(t, unix.Mount(k.state, k.state, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", k.state, "", unix.MS_SHARED, ""))
	k.spec.Mounts = append(k.spec.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: vol, Options: []string{"rbind", "rshared"}})
	admin := []string{"CAP_SYS_ADMIN"}
	k.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: admin, Permitted: admin, Effective: admin}
	k.spec.Linux.RootfsPropagation = "shared"
	k.start()
	k.until("the container's mount", func() bool { out, _ := k.output(); return out == "mounted\n" })
	inner := filepath.Join(vol, "inner")
	if m := mountsBelow(k.state); !slices.Equal(m, []string{k.state, inner}) {
		t.Errorf("the host sees %q", m)
	}
	outer := filepath.Join(vol, "outer")
	must(t, unix.Mount("tmpfs", outer, "tmpfs", 0, ""))
	must(t, os.WriteFile(filepath.Join(outer, "file"), nil, 0o600))
	k.until("the host's mount", func() bool { out, _ := k.output(); return out == "mounted\nseen\n" })
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.wait()
	for _, m := range []string{outer, inner, k.state} {
		must(t, unix.Unmount(m, 0))
	}
	k.nothingLeft()
}
