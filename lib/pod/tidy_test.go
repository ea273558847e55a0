// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"os"
	"path/filepath"
	"testing"

	"ctrd.dev/ctrd/lib/state"
)

// TestTidy: the directory of a pod that has no record goes, whatever the state directory is called.
func TestTidy(t *testing.T) {
	base := filepath.Join(t.TempDir(), "of [1] * ?")
	if err := os.Mkdir(base, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "run"), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	dir := d.Run("pods", "ns", "uid")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Tidy(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is there: %v", err)
	}
}
