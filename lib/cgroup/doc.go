// SPDX-License-Identifier: Apache-2.0

// Package cgroup places processes in cgroups, and watches and controls one cgroup path, such as
// /ctrd--default--web, in every cgroup hierarchy that this host has mounted: v1, hybrid, or pure v2. Making the
// cgroup of a container and setting its limits is the OCI engine's work; this package does what must work without
// an engine: name, make, start in, count, kill, freeze, measure, remove.
//
// # Paths
//
// A path is absolute and is joined to the mount point of each hierarchy, as libcontainer's fs and fs2
// managers place an absolute linux.cgroupsPath: the cgroup of the process itself plays no part. [Path] makes it from
// what a runtime config says, a unit of systemd included; [Spec] makes the latter. Within a container that was given
// only a part of a hierarchy, the mount point is that part, and paths lie below it. The root cgroup and paths with
// ".." are refused with [errdefs.ErrInvalidArgument].
//
// # Where a supervisor lives
//
// [Start] starts a process outside of its starter's cgroup: the end of a unit or a login session, and the kill of a
// cgroup, do not reach it. It is born in another cgroup, or in the root where its starter is there, too. All supervisors of one state directory may share one
// cgroup, which [RemoveEmpty] takes away behind the last of them.
//
// In a unit of systemd that has Delegate=yes ([OwnUnit]), a process that runs a container in the foreground keeps it
// in the unit instead: [Unit.Split] gives the container's path, below the unit's. The supervisor is then started
// without [Start] and stays with its starter.
//
// # Absence
//
// A cgroup that exists in no hierarchy is empty: it has no pids, and killing, thawing or removing it is
// done already. Only what needs the cgroup itself (Freeze, Measure, OOMKills, Frozen) reports
// [errdefs.ErrNotFound]. A controller that is not mounted, or a file that the kernel is too old to
// have, gives zero values.
//
// # Locks
//
// Start holds a shared flock(2) on the cgroup's directory in the v2 hierarchy until the process is in it, RemoveEmpty
// and Leave an exclusive one while they remove; none waits for longer than five seconds.
//
// # Crashes
//
// Nothing is kept between calls but the list of mounts, read once, and an attribute of cgroups that go when they are
// empty (trusted.ctrd). Each call may be killed anywhere and made again, by any process. A kill of Make may leave
// an empty cgroup without that attribute, which then stays until the next boot.
package cgroup
