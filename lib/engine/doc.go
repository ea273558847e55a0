// SPDX-License-Identifier: Apache-2.0

// Package engine makes containers, with libcontainer or with an OCI engine such as runc, crun, youki or runsc,
// which it drives through go-runc. Both pass one suite.
//
// It runs in a process of its own that does one thing and ends, so that what it needs for that burdens
// nobody for the life of the container. The process speaks with its parent as package ask says, and ends
// when the parent does. The parent must be a child subreaper: the processes that the engine starts become
// the parent's children when the engine ends.
//
// A process comes into a container of libcontainer's without that: see [Enter], which is for the parent.
//
// A program that cannot be run is an error of Create, Exec or, if only the kernel sees it, of the start: 127
// where a file is missing, the interpreter of a script and the loader of a program included, 126 for all
// else. An external engine whose program fails in execve(2) itself is the exception: its status is that of
// the container, in the engine's own way.
//
// # On disk
//
// engine/ID/ below the working directory, or ID/ below the root of the request: the engine's state. It is
// there from before the cgroup is made until the parent or Delete removes it. For an OCI engine, engine/ also
// has init.pid and files that live as long as one call. entry.json beside libcontainer's state is for Enter. Package bpf keeps compiled seccomp filters.
//
// # Locks
//
// None. The parent sees to it that there is one change of a container at a time.
//
// # After a crash
//
// Killed in Create, it leaves the state directory, the cgroup that config.json names, and perhaps
// processes in it; all three can be removed by these names. An OCI engine that is under way is killed with
// the process group, which is the engine process's own.
package engine
