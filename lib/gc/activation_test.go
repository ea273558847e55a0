// SPDX-License-Identifier: Apache-2.0

package gc_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"ctrd.dev/ctrd/lib/activation"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// activate mounts a tmpfs.
func (w *world) activate(name, lease string, pairs ...string) activation.Activation {
	w.Helper()
	a, err := activation.Activate(ctx, w.d, "default", activation.Request{
		Name: name, Lease: lease, Labels: labels(pairs...), Temporary: true, Mounts: []mount.Mount{{Type: "tmpfs", Source: "tmpfs"}},
	})
	w.must(err)
	w.Cleanup(func() {
		activation.Drop(w.d, a.ID)
		w.d.EmptyTrash()
	})
	return a
}

func (w *world) activations() string {
	w.Helper()
	var all []string
	w.must(w.d.View(ctx, func(tx *state.Tx) error {
		for a, err := range activation.All(tx, "default") {
			if err != nil {
				return err
			}
			all = append(all, a.Name)
		}
		return nil
	}))
	return strings.Join(all, " ")
}

// TestActivations: mounts end with what they were for.
func TestActivations(t *testing.T) {
	w := fresh(t)
	w.lease("l", nil)
	w.container(true, "default", "c", "")
	w.layer("default", "layer", "", "containerd.io/gc.root", "1")
	w.activate("by-container", "", "containerd.io/gc.bref.container", "c")
	w.activate("by-lease", "l")
	w.activate("by-snapshot", "", "containerd.io/gc.bref.snapshot.overlayfs", "layer")
	w.activate("by-nothing", "")
	a := w.activate("by-other-container", "", "containerd.io/gc.bref.container.x", "other")
	if r := w.collect(); r.Mounts != 2 || w.activations() != "by-container by-lease by-snapshot" {
		t.Errorf("%+v; there are %s", r, w.activations())
	}
	if _, err := os.Stat(w.d.Run("mounts", a.ID)); !os.IsNotExist(err) {
		t.Errorf("its directory: %v", err)
	}
	w.unlease("l")
	w.collect()
	if got := w.activations(); got != "by-container by-snapshot" {
		t.Errorf("without the lease there are %s", got)
	}
	// A lease of the same id is another one.
	w.lease("l", nil)
	w.activate("by-lease", "l")
	w.unlease("l")
	w.lease("l", nil)
	w.collect()
	if got := w.activations(); got != "by-container by-snapshot" {
		t.Errorf("with another lease there are %s", got)
	}
}

// TestKilledActivations: mounts without a record go, if nobody is at work on them.
func TestKilledActivations(t *testing.T) {
	w := fresh(t)
	a := w.activate("a", "", "containerd.io/gc.root", "x")
	w.run(func(tx *state.Tx) error { return activation.Forget(tx, "default", "a") })
	held, err := lock.Hold(w.d.Run("mounts", a.ID, "lock"))
	w.must(err)
	w.collect()
	if mounted, err := mount.Mounted(a.Active[0].Point); !mounted {
		t.Errorf("while somebody is at work they went: %v", err)
	}
	w.must(held.Release())
	if r := w.collect(); r.Files != 1 {
		t.Errorf("%+v", r)
	}
	entries, err := os.ReadDir(w.d.Run("mounts"))
	w.must(err)
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == a.ID }) {
		t.Error("the directory is left")
	}
}
