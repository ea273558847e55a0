// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"strings"
	"testing"
)

// A scope goes with its last process, and with the scope the count of what the kernel has killed in it.
func TestOutOfMemory(t *testing.T) {
	m := boot(t, "hybrid") // scripts/nsboot has no controllers in the other mode
	got := m.sh(t, `systemd-run -q -p Delegate=yes sleep infinity
		for n in $(seq 10); do
			ctr-task run --name hungry --cgroup-driver systemd -m 16m $IMG sh -c 'x=x; while :; do x=$x$x; done' || :
			ctr-task run -d --name ended --cgroup-driver systemd -m 16m $IMG sleep 1000 >/dev/null
			kill -KILL $(field ended pid)
			ctr-task wait ended >/dev/null || :
			ctr-task inspect hungry ended --format '{{.id}} {{.exit.status}} {{.exit.oom}}'
			ctr-task rm -f hungry ended >/dev/null
		done`)
	for line := range strings.Lines(got) {
		if line = strings.TrimSpace(line); line != "hungry 137 true" && line != "ended 137" {
			t.Errorf("%q", line)
		}
	}
	if n := strings.Count(got, "137"); n != 20 {
		t.Errorf("%d of 20 containers:\n%s", n, got)
	}
}
