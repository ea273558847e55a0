// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

func nobody(*state.Tx, snapshot.Info) error { return nil }

// TestMountAndItsUsers: one who begins to use a snapshot while it is being mounted is seen, and the mount undone.
func TestMountAndItsUsers(t *testing.T) {
	b := newBench(t, snapshot.Overlay, t.TempDir())
	b.layer("base", "")
	b.prepare("s", "base")
	at := filepath.Join(t.TempDir(), "at")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	used := errors.New("somebody uses it")
	asked := 0
	err := snapshot.Overlay.Mount(t.Context(), b.d, nil, "ns", "s", at, func(*state.Tx, snapshot.Info) error {
		if asked++; asked == 1 {
			return nil
		}
		var mounted *snapshot.MountedError
		if err := snapshot.Overlay.NotMounted(t.Context(), b.d, "ns", "s"); !errors.As(err, &mounted) || mounted.At != at {
			t.Errorf("the user does not see the mount: %v", err)
		}
		return used
	})
	if !errors.Is(err, used) || asked != 2 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	if mounted, err := mount.Mounted(at); mounted || err != nil {
		t.Errorf("mounted: %v, %v", mounted, err)
	}
	if err := snapshot.Overlay.NotMounted(t.Context(), b.d, "ns", "s"); err != nil {
		t.Error(err)
	}
}

// TestNobodyObjects: who has nothing to object gives no function.
func TestNobodyObjects(t *testing.T) {
	b := newBench(t, snapshot.Overlay, t.TempDir())
	b.prepare("s", "")
	at := t.TempDir()
	if err := snapshot.Overlay.Mount(t.Context(), b.d, nil, "ns", "s", at, nil); err != nil {
		t.Fatal(err)
	}
	if err := mount.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Overlay.Seal(t.Context(), b.d, "ns", "done", "s", snapshot.CommitOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := snapshot.Overlay.Read(t.Context(), b.d, nil, "ns", "done", nil, func([]string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := snapshot.Overlay.Delete(t.Context(), b.d, "ns", "done", nil); err != nil {
		t.Fatal(err)
	}
}

// TestToldAtOnce: what is there and what is not is told while others hold the lock of a collection.
func TestToldAtOnce(t *testing.T) {
	b := newBench(t, snapshot.Overlay, t.TempDir())
	b.prepare("s", "")
	l, err := b.d.Lock(t.Context(), nil, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	hasty, err := state.Open(state.Config{Root: b.d.Path(), State: b.d.Run(), Wait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Overlay.Create(t.Context(), hasty, "ns", snapshot.Info{Key: "s", Kind: snapshot.Active}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("one that is there is made: %v", err)
	}
	if err := snapshot.Overlay.Delete(t.Context(), hasty, "ns", "none", nil); !errdefs.IsNotFound(err) {
		t.Errorf("one that is not there is removed: %v", err)
	}
}

// TestCommitAndMount: nobody mounts what is being committed, and what is mounted is committed on demand alone.
func TestCommitAndMount(t *testing.T) {
	b := newBench(t, snapshot.Overlay, t.TempDir())
	b.prepare("s", "")
	at := t.TempDir()
	l, err := b.d.Lock(t.Context(), nil, lock.Snapshot, string(b.get("s").ID), lock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	hasty, err := state.Open(state.Config{Root: b.d.Path(), State: b.d.Run(), Wait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var busy *lock.BusyError
	if err := snapshot.Overlay.Mount(t.Context(), hasty, nil, "ns", "s", at, nobody); !errors.As(err, &busy) {
		t.Errorf("mount of what is being committed: %v", err)
	}
	if _, err := snapshot.Overlay.Seal(t.Context(), hasty, "ns", "done", "s", snapshot.CommitOptions{}, nobody); !errors.As(err, &busy) {
		t.Errorf("commit of what is being mounted: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if err := snapshot.Overlay.Mount(t.Context(), b.d, nil, "ns", "s", at, nobody); err != nil {
		t.Fatal(err)
	}
	defer mount.Unmount(at, 0)
	var mounted *snapshot.MountedError
	if _, err := snapshot.Overlay.Seal(t.Context(), b.d, "ns", "done", "s", snapshot.CommitOptions{}, nobody); !errors.As(err, &mounted) {
		t.Errorf("commit of what is mounted: %v", err)
	}
	if err := snapshot.Overlay.Mount(t.Context(), b.d, nil, "ns", "s", t.TempDir(), nobody); !errors.As(err, &mounted) {
		t.Errorf("a second mount: %v", err)
	}
	if err := snapshot.Overlay.Delete(t.Context(), b.d, "ns", "s", nobody); !errors.As(err, &mounted) {
		t.Errorf("removal of what is mounted: %v", err)
	}
	if _, err := snapshot.Overlay.Seal(t.Context(), b.d, "ns", "done", "s", snapshot.CommitOptions{Mounted: true}, nobody); err != nil {
		t.Error(err)
	}
	if err := snapshot.Overlay.Mount(t.Context(), b.d, nil, "ns", "done", t.TempDir(), nobody); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("mount of a committed one: %v", err)
	}
}
