// SPDX-License-Identifier: Apache-2.0

// Package engine makes containers with libcontainer.
//
// It runs in a process of its own that does one thing and ends, so that what it needs for that burdens
// nobody for the life of the container. The process speaks with its parent as package ask says. The
// parent must be a child subreaper: the processes that the engine starts become the parent's children
// when the engine ends.
//
// # On disk
//
// engine/<id>/ below the working directory, libcontainer's state. It is there from before the cgroup is
// made until the parent or Delete removes it.
//
// # After a crash
//
// Killed in Create, it leaves the state directory, the cgroup that config.json names, and perhaps
// processes in it; all three can be removed by these names.
package engine
