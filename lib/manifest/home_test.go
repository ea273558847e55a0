// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/mount"
)

// TestRemoveHome: what is mounted in a home is unmounted before it is removed, whatever the root is called.
func TestRemoveHome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(t.TempDir(), "of [1] * ?")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h, held, err := Make(dir, &Pod{})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	at := h.volume("memory")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mount.Unmount(at, unix.MNT_DETACH) })
	if err := h.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(string(h)); !os.IsNotExist(err) {
		t.Errorf("the home is there: %v", err)
	}
}
