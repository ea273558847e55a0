// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// diskOf mounts a file system on a file, which goes with the test.
func diskOf(t *testing.T, size int64, mkfs ...string) string {
	t.Helper()
	if _, err := exec.LookPath(mkfs[0]); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and " + mkfs[0])
	}
	file, at := filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "at")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size), os.Mkdir(at, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], file)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
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

func noise(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return string(b)
}

// TestNoRoomOfDrivers: a pull that fills the disk, or a quota, says so and leaves no tree, whichever snapshotter has it; with
// room it goes on.
func TestNoRoomOfDrivers(t *testing.T) {
	for name, c := range map[string]struct {
		sn     *snapshot.Snapshotter
		size   int64
		filler int
		mkfs   []string
		quota  string
		refuse unix.Errno
	}{
		"erofs":       {snapshot.Erofs, 64 << 20, 16 << 20, []string{"mkfs.ext4", "-q", "-F"}, "", unix.ENOSPC},
		"btrfs":       {snapshot.Btrfs, 128 << 20, 50 << 20, []string{"mkfs.btrfs", "-q", "--mixed"}, "", unix.ENOSPC},
		"btrfs quota": {snapshot.Btrfs, 512 << 20, 16 << 20, []string{"mkfs.btrfs", "-q"}, "40M", unix.EDQUOT},
	} {
		t.Run(name, func(t *testing.T) {
			at := diskOf(t, c.size, c.mkfs...)
			d, err := state.Open(state.Config{Root: filepath.Join(at, "root"), State: filepath.Join(t.TempDir(), "run"), Wait: -1})
			if err != nil {
				t.Fatal(err)
			}
			s := newServer(t)
			opt := options()
			opt.Snapshotter, opt.Layers = c.sn, 1
			// What has a record has a reserve, too.
			if _, err := pullText(ctx, d, s.build("test/small", "1", files("small", "")).ref, opt); err != nil {
				t.Fatal(err)
			}
			if c.quota != "" {
				for _, args := range [][]string{{"quota", "enable", at}, {"qgroup", "limit", c.quota, "0/5", at}} {
					if out, err := exec.Command("btrfs", args...).CombinedOutput(); err != nil {
						t.Fatalf("%v: %s", err, out)
					}
				}
			}
			b := s.build("test/app", "1", files("first", noise(4<<20)), files("second", noise(36<<20)))
			filler := filepath.Join(at, "filler")
			if err := os.WriteFile(filler, []byte(noise(c.filler)), 0o600); err != nil {
				t.Fatal(err)
			}
			unix.Sync()
			_, failed := pullText(ctx, d, b.ref, opt)
			var room *state.RoomError
			if !errors.As(failed, &room) || !errors.Is(failed, c.refuse) {
				t.Fatalf("%v", failed)
			}
			left, err := filepath.Glob(d.Path("snapshots", "*", "*"))
			if err != nil || len(left) != 1 {
				t.Errorf("left: %v %v: %v", left, err, failed)
			}
			if left, _ := os.ReadDir(d.Path("trash")); len(left) > 0 {
				t.Errorf("in the trash: %v", left)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			if c.quota != "" {
				exec.Command("btrfs", "quota", "disable", at).Run()
			} else if c.size < 100<<20 {
				return // it has no room for the blob and the image
			}
			unix.Sync()
			if _, err := pullText(ctx, d, b.ref, opt); err != nil {
				t.Fatal(err)
			}
		})
	}
}
