// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package engine

// A process that is to be in the cgroups of a container puts itself there, before libcontainer's part of the program, which
// enters the namespaces. In the v1 hierarchies it moves: it has one thread then, and the kernel moves a thread that moves itself
// without the lock that makes other moves slow (see cgroup.Hasten). _CTRD_JOIN names the open files. In the v2 hierarchy
// nothing moves without that lock, but a process can be born in a cgroup: _CTRD_BIRTH names its open directory, and what goes on is
// a child of our parent's, whose pid is told on the socket of _LIBCONTAINER_INITPIPE.
//
// The supervisor must not do this in its own process, not even by a thread: who is in a cgroup that is frozen, or has used up its
// processor time, stands still, and so does a parent that waits for the execve of such a child.

/*
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static long number(const char *variable)
{
	char *value = getenv(variable);

	return value ? strtol(value, NULL, 10) : -1;
}

static void __attribute__((constructor(101))) joinCgroups(void)
{
	char *at = getenv("_CTRD_JOIN");
	while (at && *at) {
		char *next;
		long fd = strtol(at, &next, 10);
		if (next == at || write(fd, "0", 1) != 1)
			_exit(1);
		close(fd);
		at = *next ? next + 1 : next;
	}
	long birth = number("_CTRD_BIRTH");
	if (birth < 0)
		return;
	struct { // struct clone_args, sched.h of the kernel
		uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
	} args = { .flags = 0x200000000ULL | 0x8000, .cgroup = birth }; // CLONE_INTO_CGROUP, CLONE_PARENT
	long pid = syscall(435, &args, sizeof args);
	if (pid == 0) {
		close(birth);
		return;
	}
	_exit(pid < 0 || dprintf(number("_LIBCONTAINER_INITPIPE"), "%ld\n", pid) < 0);
}
*/
import "C"

// canJoin says that the program has the function above.
const canJoin = true
