// SPDX-License-Identifier: Apache-2.0

package gc_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

// fileSystem is one on which the root may lie.
type fileSystem struct {
	name    string
	mkfs    []string // makes it on a file; none: tmpfs
	size    int64    // of that file
	options string   // to mount it
	slow    bool     // to fill
}

var fileSystems = []fileSystem{
	{name: "ext4-1k", mkfs: []string{"mkfs.ext4", "-q", "-F", "-b", "1024", "-N", "2048"}, size: 16 << 20},
	{name: "ext4-4k", mkfs: []string{"mkfs.ext4", "-q", "-F", "-b", "4096", "-N", "2048"}, size: 16 << 20},
	{name: "xfs", mkfs: []string{"mkfs.xfs", "-q"}, size: 300 << 20},
	{name: "btrfs", mkfs: []string{"mkfs.btrfs", "-q"}, size: 128 << 20, slow: true},
	{name: "btrfs-mixed", mkfs: []string{"mkfs.btrfs", "-q", "--mixed"}, size: 32 << 20},
	{name: "tmpfs", options: "size=8m,nr_inodes=2048"},
}

// mount mounts an empty one at a directory that it makes, and unmounts it at the end of the test.
func (f fileSystem) mount(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	at := filepath.Join(t.TempDir(), "at")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"-t", "tmpfs", "-o", f.options, "tmpfs", at}
	if f.mkfs != nil {
		if _, err := exec.LookPath(f.mkfs[0]); err != nil {
			t.Skip("needs " + f.mkfs[0])
		}
		disk := filepath.Join(t.TempDir(), "disk")
		if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, f.size)); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(f.mkfs[0], append(f.mkfs[1:], disk)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", f.mkfs[0], err, out)
		}
		args = []string{"-o", "loop", disk, at}
	}
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		t.Skipf("this kernel does not mount it: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	return at
}

// fill leaves no block and no inode of a file system, and no room for a name in the directories that a removal
// may use.
func fill(t *testing.T, at string) {
	t.Helper()
	dir := filepath.Join(at, "fill")
	if err := os.MkdirAll(dir, 0o700); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	full := func(err error) bool {
		if err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		return err != nil
	}
	f, err := os.CreateTemp(dir, "blocks")
	if !full(err) {
		defer f.Close()
		var size int64
		for part := int64(64 << 20); part > 0; part /= 2 {
			for !full(unix.Fallocate(int(f.Fd()), 0, size, part)) {
				size += part
			}
		}
		// What is not given to fallocate may be had by a write.
		for _, n := range []int{64 << 10, 1} {
			for err = nil; !full(err); {
				_, err = f.Write(make([]byte, n))
			}
		}
		f.Sync()
	}
	for room := true; ; {
		f, err := os.CreateTemp(dir, strings.Repeat("i", 200))
		if full(err) {
			return
		}
		if room {
			_, err = f.Write(make([]byte, 4096))
		}
		room = !full(errors.Join(err, f.Close())) && room // each failure costs btrfs a commit
	}
}

// TestRemovalOnAFullDisk: an image can be removed on every file system when there is no block and no inode left,
// however many layers it has, also when somebody else takes what room a removal makes.
func TestRemovalOnAFullDisk(t *testing.T) {
	for _, f := range fileSystems {
		for _, layers := range []int{4, 120} {
			for _, bin := range []string{"trash", "no trash"} {
				if f.slow && (layers > 4 || bin == "trash") {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d layers/%s", f.name, layers, bin), func(t *testing.T) {
					at := f.mount(t)
					w := &world{T: t, dir: at, names: map[string]string{}}
					var err error
					w.d, err = state.Open(state.Config{Root: filepath.Join(at, "root"), State: filepath.Join(t.TempDir(), "run"), Wait: -1})
					w.must(err)
					var all []string
					for n := range layers {
						all = append(all, fmt.Sprint("layer", n))
					}
					w.image("default", "a", all...)
					w.image("default", "b", "other")
					if bin == "no trash" {
						w.must(os.Remove(w.d.Path("trash")))
					}
					for _, name := range []string{"a", "b"} {
						fill(t, at)
						w.must(w.d.Update(ctx, nil, func(tx *state.Tx) error { return image.Remove(tx, "default", name) }))
						fill(t, at)
						_, err := gc.Collect(ctx, w.d)
						w.must(err)
					}
					if left := w.files() + w.dirs() + strings.Join(w.list(w.d.Path("trash")), " "); left != "" {
						t.Errorf("left: %s", left)
					}
				})
			}
		}
	}
}
