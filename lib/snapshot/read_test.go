// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// TestRead: what is read is neither removed nor mounted nor committed, and what is mounted is not read.
func TestRead(t *testing.T) {
	b := newBench(t, snapshot.Overlay, t.TempDir())
	b.layer("base", "")
	b.prepare("s", "base")
	hasty, err := state.Open(state.Config{Root: b.d.Path(), State: b.d.Run(), Wait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	at := t.TempDir()
	var busy *lock.BusyError
	err = snapshot.Overlay.Read(t.Context(), b.d, nil, "ns", "s", nobody, func(layers []string) error {
		if want := []string{snapshot.Overlay.FS(b.d, b.get("s").ID), snapshot.Overlay.FS(b.d, b.get("base").ID)}; !slices.Equal(layers, want) {
			t.Errorf("%q, want %q", layers, want)
		}
		if err := snapshot.Overlay.Delete(t.Context(), hasty, "ns", "s", nobody); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("removal of what is read: %v", err)
		}
		if err := snapshot.Overlay.Mount(t.Context(), hasty, nil, "ns", "s", at, nobody); !errors.As(err, &busy) {
			t.Errorf("mount of what is read: %v", err)
		}
		if _, err := snapshot.Overlay.Seal(t.Context(), hasty, "ns", "done", "s", snapshot.CommitOptions{}, nobody); !errors.As(err, &busy) {
			t.Errorf("commit of what is read: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = snapshot.Overlay.Read(t.Context(), b.d, nil, "ns", "base", nobody, func([]string) error {
		return snapshot.Overlay.Read(t.Context(), hasty, nil, "ns", "base", nobody, func([]string) error { return nil }) // without a lock
	})
	if err != nil {
		t.Error(err)
	}
	if err := snapshot.Overlay.Mount(t.Context(), b.d, nil, "ns", "s", at, nobody); err != nil {
		t.Fatal(err)
	}
	defer mount.Unmount(at, 0)
	never := func([]string) error { t.Error("read"); return nil }
	var mounted *snapshot.MountedError
	if err := snapshot.Overlay.Read(t.Context(), b.d, nil, "ns", "s", nobody, never); !errors.As(err, &mounted) {
		t.Errorf("read of what is mounted: %v", err)
	}
	if err := snapshot.Overlay.Read(t.Context(), b.d, nil, "ns", "none", nobody, never); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
