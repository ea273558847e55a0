// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"os"
	"strings"

	"ctrd.dev/ctrd/test/world"
)

// ofCheckpoints are the beginnings of the points that only checkpoints and restores pass.
var ofCheckpoints = []string{"checkpoint.", "engine.checkpoint.", "engine.restore.", "shim.checkpoint", "shim.restore-waits", "shim.restored", "task.restored"}

func isOfCheckpoints(point string) bool {
	for _, beginning := range ofCheckpoints {
		if strings.HasPrefix(point, beginning) {
			return true
		}
	}
	return false
}

// checkpoints kills a checkpoint and a restore, and what serves them: the container runs or does not, another checkpoint can
// be made, and restored. Without a criu that works on this kernel there are none, and criu says why.
func checkpoints() (all []scenario, criu string) {
	path, why := world.FindCriu()
	if why != "" {
		return nil, why
	}
	os.Setenv("CTRD_CRIU", path)
	run, dump, restore := "ctr-task run -d --name c "+small+" sleep 1000", "ctr-task checkpoint --image cp:1 c", "ctr-task restore --image cp:1 c"
	restored := "ctr-task restore --image cp:1 --name d"
	anew := []step{do("ctr-task rm -f c"), do("ctr-image rm -f cp:1"), do(run), do(dump), do(restore), do("ctr-task exec c true")}
	return []scenario{
		{
			name: "checkpoint", before: []step{pull(small), do(run)}, command: words(dump), only: ofCheckpoints,
			again: []step{do(dump), do(restore), do("ctr-task exec c true")}, // also of a container that has ended with it
		},
		{name: "checkpoint by a supervisor", before: []step{pull(small)}, command: words(run), then: [][]string{words(dump)}, again: anew, only: ofCheckpoints},
		{
			name: "restore", before: []step{pull(small), do(run), do(dump)}, command: words(restore), only: ofCheckpoints,
			again: []step{do("ctr-task stop -t 0 c"), do(restore), do("ctr-task exec c true")},
		},
		{
			name: "restore into a new container", before: []step{pull(small), do(run), do(dump)}, command: words(restored), only: ofCheckpoints,
			again: []step{do("ctr-task rm -f d"), do(restored), do("ctr-task exec d true")},
		},
		{name: "checkpoint of one that runs on", before: []step{pull(small), do(run)}, command: words(dump + " -R"), again: anew, only: append([]string{"task.still"}, ofCheckpoints...)},
	}, ""
}
