// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/state"
)

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"5.8.0": true, "5.8": true, "5.10.0-26-generic": true, "6.1": true, "5.7.19": false, "5.4.0-26-generic": false, "4.19": false, "": false, "x": false, "5.x": false,
	} {
		if got := state.AtLeast(release, 5, 8); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}

// TestLostWrite: what the disk has not taken is found by asking each file, also when the file system was synced already.
func TestLostWrite(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("needs mkfs.ext4")
	}
	// A disk of 64 MiB on a file system of 24: what is more is an error of the disk.
	small, at := filepath.Join(t.TempDir(), "small"), filepath.Join(t.TempDir(), "at")
	tmpfs(t, small, "size=24m")
	disk := filepath.Join(small, "disk")
	if err := errors.Join(os.Mkdir(at, 0o755), os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 64<<20)); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range [][]string{{"mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-e", "continue", disk}, {"mount", "-o", "loop", disk, at}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Skipf("this kernel cannot: %v: %v %s", cmd, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	write(t, at, "tree/good", "tree/sub/link")
	if err := errors.Join(os.Remove(filepath.Join(at, "tree/sub/link")), os.Symlink("/none", filepath.Join(at, "tree/sub/link")), unix.Mkfifo(filepath.Join(at, "tree/fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(at, "tree")
	if err := errors.Join(state.SyncTree(tree), state.SyncTree(filepath.Join(at, "none"))); err != nil {
		t.Errorf("before: %v", err)
	}
	f, err := os.Create(filepath.Join(tree, "lost"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(make([]byte, 40<<20))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	if err := state.SyncTree(tree); !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOSPC) {
		t.Errorf("the loss was not found: %v", err)
	}
}
