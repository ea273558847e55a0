// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// A cgroup of v1 that is removed before anybody has read its count, and one that is still there.
func TestOOMWatch(t *testing.T) {
	everywhere(t, func(t *testing.T, h tree) {
		if h.v1("memory", "/") == "" {
			return
		}
		for name, c := range map[string]struct{ hungry, removed, want bool }{
			"out of memory": {true, false, true}, "out of memory, and gone": {true, true, true},
			"enough": {false, false, false}, "enough, and gone": {false, true, false},
		} {
			t.Run(name, func(t *testing.T) {
				path := newGroup(t, h)
				w, err := h.watchOOM(path)
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				if c.hungry {
					for _, file := range []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"} {
						// Not everywhere is swap counted.
						if err := write(h.v1("memory", path), file, "16777216"); err != nil && file == "memory.limit_in_bytes" {
							t.Fatal(err)
						}
					}
					_, done := start(t, h, path, "hog")
					if err := <-done; err == nil {
						t.Fatal("200 MiB fitted into 16")
					}
				}
				if c.removed {
					if err := h.remove(path, removeFor); err != nil {
						t.Fatal(err)
					}
				}
				if got := w.Killed(); got != c.want {
					t.Errorf("killed: %t", got)
				}
			})
		}
	})
}

// In v2 the cgroup above counts, too, and goes on when the one below is gone.
func TestOOMWatchUnified(t *testing.T) {
	for name, c := range map[string]struct {
		above string
		gone  bool
		want  bool
	}{
		"one more": {"oom 4\noom_kill 3\n", true, true}, "no more": {"oom 4\noom_kill 2\n", true, false}, "still there": {"oom_kill 3\n", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			h := tree{{dir: root, v2: true}}
			put := func(path, text string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(root, path, "memory.events"), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.MkdirAll(filepath.Join(root, "slice/scope"), 0o755); err != nil {
				t.Fatal(err)
			}
			put("slice", "oom 2\noom_kill 2\n")
			put("slice/scope", "oom 0\noom_kill 0\n")
			w, err := h.watchOOM("/slice/scope")
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			put("slice", c.above)
			if c.gone {
				if err := os.RemoveAll(filepath.Join(root, "slice/scope")); err != nil {
					t.Fatal(err)
				}
			}
			if got := w.Killed(); got != c.want {
				t.Errorf("killed: %t", got)
			}
		})
	}
}
