// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"strings"
)

// Hasten makes the next moves of processes between cgroups, within some milliseconds, quick. It may take
// as long as a first move does, so it is for a goroutine beside other work; it changes nothing.
//
// The kernel guards membership by a lock that forks take for next to nothing. Its price is that the first
// move after a while waits for an RCU grace period, which is most of what starting a container waits for
// (kernel/cgroup/cgroup.c, cgroup_threadgroup_rwsem; kernel/rcu/sync.c). The lock is one for all hierarchies:
// a process that is moved to where it is pays for those that come after.
func Hasten() {
	t, err := mounted()
	if err != nil {
		return
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(own)) {
		// hierarchy:controllers:path, see cgroups(7)
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		dir := t.v2(path)
		if controllers != "" {
			first, _, _ := strings.Cut(controllers, ",")
			dir = t.v1(first, path)
		}
		if dir != "" && write(dir, "cgroup.procs", "0") == nil {
			return
		}
	}
}
