// SPDX-License-Identifier: Apache-2.0

//go:build crashpoints

package gc_test

import (
	"testing"

	"ctrd.dev/ctrd/lib/fsck"
)

// A collection that is killed at any of its points leaves a whole state directory, and the next one
// removes what it would have removed.
func TestKilledAtPoints(t *testing.T) {
	for point, committed := range map[string]bool{
		"state.before-commit": false,
		"state.after-commit":  true,
		"gc.after-commit":     true,
		"gc.collected":        true,
	} {
		t.Run(point, func(t *testing.T) {
			w := fresh(t)
			w.image("default", "web", "base", "nginx")
			w.image("default", "app", "base", "python")
			w.container(false, "default", "c", "base+nginx")
			w.unname("default", "app")
			w.unname("default", "web")
			w.killed(w.start("CTRD_CRASH="+point, "collect"))
			found, err := fsck.Check(ctx, w.d, fsck.Options{Deep: true})
			w.must(err)
			if err := fsck.Whole(found); err != nil {
				t.Errorf("%v: %+v", err, found)
			}
			if got := w.blobs("default"); (got == "") != committed {
				t.Errorf("blobs after the crash: %s", got)
			}
			w.collect()
			w.want("", "base base+nginx c")
		})
	}
}
