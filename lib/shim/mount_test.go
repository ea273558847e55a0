// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskapi"
)

// bindState makes the state directory a mount of its own.
func (k *task) bindState(propagation uintptr) {
	k.Helper()
	must(k, unix.Mount(k.state, k.state, "", unix.MS_BIND, ""))
	must(k, unix.Mount("", k.state, "", propagation, ""))
}

// kill ends the container and waits.
func (k *task) kill() {
	k.Helper()
	must(k, k.client.Kill(k.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	k.wait()
}

// sharing makes a container with a volume that shares its mounts with the host. It mounts something there, and says
// when it sees what the host mounts.
func sharing(t *testing.T, volume string) *task {
	k := newTask(t, "sh", "-c", "busybox mount -t tmpfs none /vol/inner && echo mounted; until [ -e /vol/outer/file ]; do sleep 0.01; done; echo seen; sleep 1000")
	vol := filepath.Join(k.state, volume)
	for _, d := range []string{"inner", "outer"} {
		must(t, os.MkdirAll(filepath.Join(vol, d), 0o755))
	}
	k.spec.Mounts = append(k.spec.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: vol, Options: []string{"rbind", "rshared"}})
	admin := []string{"CAP_SYS_ADMIN"}
	k.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: admin, Permitted: admin, Effective: admin}
	k.spec.Linux.RootfsPropagation = "shared"
	return k
}

// shares checks what the host sees of a container that sharing made, and what that sees of the host.
func (k *task) shares(volume string) {
	k.Helper()
	vol := filepath.Join(k.state, volume)
	k.until("the container's mount", func() bool { out, _ := k.output(); return out == "mounted\n" })
	inner, outer := filepath.Join(vol, "inner"), filepath.Join(vol, "outer")
	if m := mountsBelow(k.state); !slices.Equal(m, []string{k.state, inner}) {
		k.Errorf("the host sees %q", m)
	}
	must(k, unix.Mount("tmpfs", outer, "tmpfs", 0, ""))
	must(k, os.WriteFile(filepath.Join(outer, "file"), nil, 0o600))
	k.until("the host's mount", func() bool { out, _ := k.output(); return out == "mounted\nseen\n" })
	must(k, unix.Unmount(outer, 0))
}

// TestMountsAndTheHost: on a host whose mounts are shared, as systemd makes them, the rootfs does not show, and what
// is mounted in a volume with shared propagation does, both ways; also where the volume has the rootfs below it.
func TestMountsAndTheHost(t *testing.T) {
	for _, volume := range []string{"vol", "."} {
		k := sharing(t, volume)
		k.bindState(unix.MS_SHARED)
		k.start()
		k.shares(volume)
		k.kill()
		must(t, unix.Unmount(filepath.Join(k.state, volume, "inner"), 0))
		must(t, unix.Unmount(k.state, 0))
		k.nothingLeft()
	}
}

// TestMountsOfSecond: so it is for a container that joins another one's supervisor, with a volume on a mount that the
// host has made since that was started.
func TestMountsOfSecond(t *testing.T) {
	first, k := newTask(t, "sleep", "1000"), sharing(t, "vol")
	first.start()
	k.bindState(unix.MS_SHARED)
	k.join(first)
	k.shares("vol")
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: 9}))
	first.kill()
	k.wait()
	must(t, unix.Unmount(filepath.Join(k.state, "vol/inner"), 0))
	must(t, unix.Unmount(k.state, 0))
	first.nothingLeft()
	k.nothingLeft()
}

// TestUnmountOfTheHost: a device that was mounted when a container was started, and has been unmounted since, is free,
// whether the host's mounts are private or shared. The supervisor sees what its host sees.
func TestUnmountOfTheHost(t *testing.T) {
	for _, tool := range []string{"mkfs.ext4", "losetup"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	for name, propagation := range map[string]uintptr{"private": unix.MS_PRIVATE, "shared": unix.MS_SHARED} {
		t.Run(name, func(t *testing.T) {
			k, second := newTask(t, "sleep", "1000"), newTask(t, "sleep", "1000")
			k.bindState(propagation)
			device, disk := loopDevice(t, filepath.Join(t.TempDir(), "image")), filepath.Join(k.state, "disk")
			must(t, os.Mkdir(disk, 0o755))
			must(t, unix.Mount(device, disk, "ext4", 0, ""))
			k.start()
			second.join(k)
			if _, err := os.Stat(filepath.Join("/proc", itoa(k.shim.Process.Pid), "root", disk, "lost+found")); err != nil {
				t.Errorf("the supervisor does not see it: %v", err)
			}
			k.until("the unmount", func() bool { return unix.Unmount(disk, 0) == nil }) // others on this machine look at mounts, too
			k.until("the device", func() bool {
				fd, err := unix.Open(device, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
				if err == nil {
					unix.Close(fd)
				} else if !errors.Is(err, unix.EBUSY) {
					t.Fatal(err)
				}
				return err == nil
			})
			if out, err := exec.Command("mkfs.ext4", "-q", "-F", device).CombinedOutput(); err != nil {
				t.Errorf("mkfs: %v %s", err, out)
			}
			must(t, second.client.Kill(t.Context(), &taskapi.KillRequest{ID: second.id, Signal: 9}))
			k.kill()
			must(t, unix.Unmount(k.state, 0))
			k.nothingLeft()
		})
	}
}

// loopDevice makes a loop device with an ext4 file system.
func loopDevice(t *testing.T, image string) string {
	t.Helper()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 4<<20))
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs: %v %s", err, out)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	must(t, err)
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("losetup -d: %v %s", err, out)
		}
	})
	return device
}
