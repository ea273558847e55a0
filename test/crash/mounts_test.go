// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctrd.dev/ctrd/test/world"
)

// mountsOf are the mounts that ctrd makes for its clients, with a loop device among them.
func mountsOf() []scenario {
	up, down := do("mounts up"), do("mounts down")
	return []scenario{
		{name: "mounts", command: words("mounts up"), then: [][]string{words("mounts down")}, again: []step{up, do("ctrd fsck"), down, do("ctrd gc"), noLoop}},
		{name: "end of mounts", before: []step{up}, command: words("mounts down"), again: []step{down, do("ctrd gc"), noLoop, up, down}},
	}
}

// noLoop wants no loop device of a file of the world to be left. While somebody else has one open the kernel keeps it.
func noLoop(t *testing.T, w *world.World) {
	var left []string
	for end := time.Now().Add(world.Patience); ; time.Sleep(20 * time.Millisecond) {
		all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		if err != nil {
			t.Fatal(err)
		}
		left = nil
		for _, l := range all {
			if of, err := os.ReadFile(l); err == nil && strings.HasPrefix(string(of), w.Dir+"/") {
				left = append(left, string(of))
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left: loop devices of %q", left)
		}
	}
}
