// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ctrd.dev/ctrd/lib/mount"
)

// hasLoop skips a test on a machine that has no loop devices, or not the program.
func hasLoop(t *testing.T, program string) {
	t.Helper()
	if f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0); err != nil {
		t.Skipf("the kernel has no loop devices: %v", err)
	} else {
		f.Close()
	}
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("needs %s: %v", program, err)
	}
}

// backing is the file of a loop device; empty: it has none.
func backing(device string) string {
	text, _ := os.ReadFile("/sys/block/" + filepath.Base(device) + "/loop/backing_file")
	return strings.TrimSpace(string(text))
}

// TestImage: a file with a file system is made, mounted by way of a loop device, and written to; the next activation finds what
// was written. The device goes with the activation.
func TestImage(t *testing.T) {
	hasLoop(t, "mkfs.ext4")
	d := open(t)
	file := d.Path("disk.img")
	r := Request{Name: "n", Mounts: []mount.Mount{
		{Type: "mkfs/loop", Source: file, Options: []string{"X-containerd.mkfs.size=8MiB", "X-containerd.mkfs.fs=ext4", "X-containerd.mkfs.uuid=550e8400-e29b-41d4-a716-446655440000"}},
		{Type: "format/ext4", Source: "{{ mount 0 }}"},
		{Type: "format/mkdir/bind", Source: "{{ mount 1 }}/data", Options: []string{"X-containerd.mkdir.path={{ mount 1 }}/data", "rbind"}},
	}}
	for i := range 2 {
		a, err := Activate(ctx, d, "ns", r)
		if err != nil {
			t.Fatal(err)
		}
		device, err := os.Readlink(a.Active[0].Point)
		if err != nil || backing(device) != file {
			t.Errorf("%v: %s is of %q", err, device, backing(device))
		}
		data := a.System[0].Source + "/x"
		if text, err := os.ReadFile(data); i == 1 && (err != nil || string(text) != "kept") {
			t.Errorf("%v: %q", err, text)
		}
		if err := os.WriteFile(data, []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Deactivate(ctx, d, "ns", "n"); err != nil {
			t.Fatal(err)
		}
		if backing(device) == file {
			t.Errorf("%s is still of %s", device, file)
		}
	}
	entries, err := os.ReadDir(d.Path())
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left beside the image: %s", e.Name())
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// TestLoopOption: the option loop of a file system, and a file system that is no such.
func TestLoopOption(t *testing.T) {
	hasLoop(t, "mkfs.ext4")
	d := open(t)
	file := d.Path("disk.img")
	if err := (transform{roots: []string{d.Path()}}).makeImage(ctx, file, image{size: 4 << 20, fs: "ext4"}); err != nil {
		t.Fatal(err)
	}
	r := Request{Name: "n", Temporary: true, Mounts: []mount.Mount{{Type: "ext4", Source: file, Options: []string{"loop", "ro"}}}}
	a, err := Activate(ctx, d, "ns", r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.Active[0].Point+"/x", nil, 0o600); err == nil {
		t.Error("it can be written to")
	}
	if err := Deactivate(ctx, d, "ns", "n"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Activate(ctx, d, "ns", r); err == nil {
		t.Error("zeros are mounted as a file system")
	}
	loops, _ := filepath.Glob("/sys/block/loop*")
	for _, l := range loops {
		if backing(l) == file {
			t.Errorf("%s is still of %s", l, file)
		}
	}
}
