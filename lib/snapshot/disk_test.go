// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a file system for a test.
type disk struct {
	name string
	mkfs []string // makes it on a file; none: where temporary files are
	size int64
}

var (
	here  = disk{name: "here"}
	xfs   = disk{"xfs", []string{"mkfs.xfs", "-q"}, 320 << 20}
	btrfs = disk{"btrfs", []string{"mkfs.btrfs", "-q"}, 256 << 20}
)

// mount mounts an empty one, which goes with the test.
func (f disk) mount(t testing.TB) string {
	t.Helper()
	if f.mkfs == nil {
		return t.TempDir()
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath(f.mkfs[0]); err != nil {
		t.Skip("needs " + f.mkfs[0])
	}
	dir := t.TempDir()
	file, at := filepath.Join(dir, "disk"), filepath.Join(dir, "at")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, f.size), os.Mkdir(at, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(f.mkfs[0], append(f.mkfs[1:], file)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", f.mkfs[0], err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", file, at).CombinedOutput(); err != nil {
		t.Skipf("this kernel does not mount it: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err, unix.Unmount(at, unix.MNT_DETACH))
		}
	})
	return at
}

// dir makes an empty directory on it.
func (b *bench) dir() string {
	b.Helper()
	dir, err := os.MkdirTemp(b.base, "dir")
	if err != nil {
		b.Fatal(err)
	}
	return dir
}
