// SPDX-License-Identifier: Apache-2.0

package fsck_test

import (
	"os"
	"path/filepath"
	"testing"

	"ctrd.dev/ctrd/lib/activation"
	"ctrd.dev/ctrd/lib/fsck"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// TestActivations: a record without its mounts is broken, and mounts without a record are garbage.
func TestActivations(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir(), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	a, err := activation.Activate(t.Context(), d, "ns", activation.Request{Name: "a", Temporary: true, Mounts: []mount.Mount{{Type: "tmpfs", Source: "tmpfs"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		activation.Drop(d, a.ID)
		d.EmptyTrash()
	})
	want := func(severity fsck.Severity, name string) {
		t.Helper()
		found, err := fsck.Check(t.Context(), d, fsck.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if name == "" && len(found) == 0 {
			return
		}
		if len(found) != 1 || found[0].Severity != severity || found[0].Kind != "mounts" || found[0].Name != name {
			t.Errorf("found %+v, want %s mounts %q", found, severity, name)
		}
	}
	want("", "")
	dir := filepath.Dir(a.Active[0].Point)
	if err := os.Rename(dir, dir+".away"); err != nil { // with what is mounted
		t.Fatal(err)
	}
	found, err := fsck.Check(t.Context(), d, fsck.Options{})
	if err != nil || len(found) != 2 || fsck.Whole(found) == nil {
		t.Errorf("%v: found %+v, want one broken and one that is garbage", err, found)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	err = d.UpdateRun(t.Context(), nil, func(tx *state.Tx) error { return activation.Forget(tx, "ns", "a") })
	if err != nil {
		t.Fatal(err)
	}
	want(fsck.Garbage, a.ID)
}
