// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"sync"
)

// placing is held for reading by a start whose thread is in another cgroup than the process.
var placing sync.RWMutex

// Hasten makes the next moves of processes between cgroups, within some milliseconds, quick. It may take
// as long as a first move does, and meanwhile nobody can make or change a cgroup, so it is for a goroutine beside work
// that does neither; it changes nothing.
//
// The kernel guards membership by a lock that forks take for next to nothing. Its price is that the first
// move after a while waits for an RCU grace period, which is most of what starting a container waits for
// (kernel/cgroup/cgroup.c, cgroup_threadgroup_rwsem; kernel/rcu/sync.c). The lock is one for all hierarchies:
// a process that is moved to where it is pays for those that come after. That takes its threads along, so where a start of
// this process is under way nothing is done.
func Hasten() {
	if !placing.TryLock() {
		return
	}
	defer placing.Unlock()
	t, err := mounted()
	if err != nil {
		return
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	for _, h := range t {
		path, ok := membership(string(own), h.name())
		if ok && write(filepath.Join(h.dir, path), "cgroup.procs", "0") == nil {
			return
		}
	}
}
