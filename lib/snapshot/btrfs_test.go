// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	subvolume "ctrd.dev/ctrd/lib/btrfs"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// TestBtrfsElsewhere: on another file system it says what it wants and what to do.
func TestBtrfsElsewhere(t *testing.T) {
	b := newBench(t, snapshot.Btrfs, xfs.mount(t))
	err := snapshot.Btrfs.Stage(t.Context(), b.d, snapshot.NewID(), "")
	var hint interface{ Hint() string }
	if !errdefs.IsFailedPrecondition(err) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--snapshotter overlayfs") {
		t.Errorf("%v", err)
	}
	if left, _ := os.ReadDir(b.d.Path("snapshots", "btrfs")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// withoutAdmin calls fn on a thread that may not do what only CAP_SYS_ADMIN allows.
func withoutAdmin(t *testing.T, fn func()) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		err := unix.Capget(&hdr, &caps[0])
		if err == nil {
			caps[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
			caps[0].Permitted &^= 1 << unix.CAP_SYS_ADMIN
			err = unix.Capset(&hdr, &caps[0])
		}
		if err == nil {
			fn()
		}
		done <- err
	}()
	must(t, <-done)
}

// TestBtrfsRemoval: a subvolume goes with all that a container has made in it, other subvolumes and read-only ones too, also where
// the kernel lets its owner remove it file by file alone.
func TestBtrfsRemoval(t *testing.T) {
	at := btrfs.mount(t)
	for _, admin := range []bool{true, false} {
		b := newBench(t, snapshot.Btrfs, filepath.Join(at, map[bool]string{true: "admin", false: "owner"}[admin]))
		b.layer("base", "")
		b.prepare("rw", "base")
		fs := b.sn.FS(b.d, b.get("rw").ID)
		must(t, os.Mkdir(fs+"/dir", 0o755))
		must(t, subvolume.Create(fs+"/dir/below"))
		must(t, subvolume.Create(fs+"/dir/below/deeper"))
		must(t, os.WriteFile(fs+"/dir/below/deeper/f", []byte("x"), 0o644))
		must(t, subvolume.Snapshot(fs+"/dir/below/deeper", fs+"/dir/kept", true))
		remove := func() {
			for _, key := range []string{"rw", "base"} {
				for _, id := range b.remove(key) {
					must(t, b.sn.Drop(b.d, id))
				}
			}
			b.d.EmptyTrash()
		}
		if admin {
			remove()
		} else {
			withoutAdmin(t, remove)
		}
		if left, err := os.ReadDir(b.d.Path("trash")); err != nil || len(left) != 0 {
			t.Errorf("admin %v: in the trash: %v %v", admin, left, err)
		}
	}
}

// TestBtrfsKilledRemoval: what a removal that was killed halfway has left in the trash goes with the next sweep.
func TestBtrfsKilledRemoval(t *testing.T) {
	b := newBench(t, snapshot.Btrfs, btrfs.mount(t))
	b.layer("base", "")
	id := b.get("base").ID
	must(t, os.MkdirAll(b.d.Path("trash"), 0o700))
	must(t, os.Rename(b.sn.Path(b.d, id), b.d.Path("trash", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")))
	b.d.SweepTrash()
	if left, err := os.ReadDir(b.d.Path("trash")); err != nil || len(left) != 0 {
		t.Errorf("in the trash: %v %v", left, err)
	}
}

// TestBtrfsUsage: a snapshot has what is not its parent's; what is committed cannot be written to.
func TestBtrfsUsage(t *testing.T) {
	b := newBench(t, snapshot.Btrfs, btrfs.mount(t))
	b.prepare("a", "")
	b.write("a", "big", strings.Repeat("x", 1<<20))
	b.write("a", "other", strings.Repeat("y", 1<<20))
	made, err := b.sn.Seal(t.Context(), b.d, "ns", "base", "a", snapshot.CommitOptions{}, nobody)
	if err != nil || made.Size != 2<<20 || made.Inodes != 3 {
		t.Errorf("%d bytes, %d inodes: %v", made.Size, made.Inodes, err)
	}
	if err := os.WriteFile(b.sn.FS(b.d, made.ID)+"/new", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to what is committed: %v", err)
	}
	b.prepare("rw", "base")
	usage := func(wantSize, wantInodes int64) {
		t.Helper()
		size, inodes, err := b.sn.Usage(t.Context(), b.d, b.get("rw").ID)
		if err != nil || size != wantSize || inodes != wantInodes {
			t.Errorf("%d bytes, %d inodes, want %d, %d: %v", size, inodes, wantSize, wantInodes, err)
		}
	}
	usage(0, 1)
	b.write("rw", "new", strings.Repeat("z", 64<<10))
	usage(64<<10, 2)
	b.in("rw", func(dir string) { must(t, os.Chmod(dir+"/big", 0o600)) })
	usage(64<<10+1<<20, 3) // as where a file is copied to be changed
	b.in("rw", func(dir string) { must(t, os.Remove(dir+"/other")) })
	usage(64<<10+1<<20, 3)
}

// TestBtrfsLayerIsReadOnly: also a layer of a pull, whose directory was complete under its name already.
func TestBtrfsLayerIsReadOnly(t *testing.T) {
	b := newBench(t, snapshot.Btrfs, btrfs.mount(t))
	id := b.layerID("")
	b.update(func(tx *state.Tx) error { return b.sn.PutLayer(tx, "ns", snapshot.Info{Key: "layer", ID: id}) })
	if err := os.WriteFile(b.sn.FS(b.d, id)+"/new", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("%v", err)
	}
}

// TestBtrfsCopiedRoot: in a snapshot of a root, or a copy, the trees are missing, which is told; what is there goes like any other.
func TestBtrfsCopiedRoot(t *testing.T) {
	at := btrfs.mount(t)
	must(t, subvolume.Create(at+"/a"))
	b := newBench(t, snapshot.Btrfs, at+"/a")
	b.layer("base", "")
	id := b.get("base").ID
	b.d.EmptyTrash()
	must(t, subvolume.Snapshot(at+"/a", at+"/b", false))
	must(t, os.Remove(at+"/b/root/pair"))
	other := newBenchIn(t, snapshot.Btrfs, at+"/b", filepath.Join(t.TempDir(), "run"))
	if err := b.sn.Check(b.d, snapshot.Info{ID: id}); err != nil {
		t.Error(err)
	}
	if err := other.sn.Check(other.d, snapshot.Info{ID: id}); !errdefs.IsDataLoss(err) {
		t.Errorf("a root of which a snapshot was taken: %v", err)
	}
	must(t, other.sn.Drop(other.d, id))
	other.d.EmptyTrash()
	if left, err := os.ReadDir(other.d.Path("trash")); err != nil || len(left) != 0 {
		t.Errorf("in the trash: %v %v", left, err)
	}
	if got := func() string { b.look("v", "base"); return b.read("v", "f") }(); got != "base" {
		t.Errorf("the first root's snapshot is %q", got)
	}
}

// full fills a file system.
func full(t *testing.T, at string) {
	t.Helper()
	f, err := os.Create(filepath.Join(at, "fill"))
	must(t, err)
	defer f.Close()
	for part := 16 << 20; part > 0; part /= 4 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, part))
		}
		f.Sync()
	}
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		t.Fatal(err)
	}
}

// TestFullDisk: snapshots of every driver can be removed when the disk is full, and what cannot be made leaves nothing.
func TestFullDisk(t *testing.T) {
	small := disk{"ext4", []string{"mkfs.ext4", "-q", "-F"}, 32 << 20}
	for _, c := range []struct {
		sn *snapshot.Snapshotter
		on disk
	}{{snapshot.Overlay, small}, {snapshot.Native, small}, {snapshot.Erofs, small}, {snapshot.Erofs, disk{"btrfs", btrfs.mkfs, 128 << 20}}, {snapshot.Btrfs, disk{"btrfs", btrfs.mkfs, 128 << 20}}} {
		t.Run(c.sn.Name()+" on "+c.on.name, func(t *testing.T) {
			at := c.on.mount(t)
			b := newBenchIn(t, c.sn, at, filepath.Join(t.TempDir(), "run"))
			b.layer("base", "")
			b.prepare("a", "base")
			b.write("a", "big", strings.Repeat("x", 8<<20))
			full(t, at)
			var room *state.RoomError
			if err := state.NoRoom(unix.ENOSPC, b.d.Path()); !errors.As(err, &room) || room.Bytes > 1<<20 || strings.Contains(err.Error(), "inodes") == (c.on.name == "btrfs") {
				t.Errorf("a full disk is told as %v", err)
			}
			if _, err := b.sn.Seal(t.Context(), b.d, "ns", "done", "a", snapshot.CommitOptions{}, nobody); err != nil && !errors.Is(err, unix.ENOSPC) {
				t.Errorf("commit: %v", err)
			}
			for _, key := range []string{"a", "done", "base"} {
				if err := b.sn.Delete(t.Context(), b.d, "ns", key, nobody); err != nil && !errdefs.IsNotFound(err) {
					t.Errorf("removal of %s: %v", key, err)
				}
			}
			for id := range b.sn.Dirs(b.d) {
				t.Errorf("left: %s", id)
			}
			if left, _ := os.ReadDir(b.d.Path("trash")); len(left) > 0 {
				t.Errorf("in the trash: %v", left)
			}
		})
	}
}
