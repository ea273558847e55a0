// SPDX-License-Identifier: Apache-2.0

package task

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"ctrd.dev/ctrd/lib/lock"
)

// TestTidyDumps: what a killed checkpoint has written goes with the next collection; what a process writes, and what a task has ended
// with, stays.
func TestTidyDumps(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	home := d.Path("containers", "default", found(t, d, "c").Container.Files())
	for _, name := range []string{"dump-KILLED", "dump-LIVES", "last-1-X", "restore-X"} {
		if err := os.MkdirAll(filepath.Join(home, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, name, "pages-1.img"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		held, err := lock.Hold(filepath.Join(home, name+ScratchLock))
		if err != nil {
			t.Fatal(err)
		}
		if name != "dump-LIVES" {
			err = held.Release()
		} else {
			defer held.Release()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := Tidy(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(home)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"dump-LIVES", "dump-LIVES.lock", "last-1-X", "last-1-X.lock", "restore-X", "restore-X.lock"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}
