// SPDX-License-Identifier: Apache-2.0

// Package cgroup watches and controls one cgroup path, such as /ctrd--default--web, in every cgroup
// hierarchy that this host has mounted: v1, hybrid, or pure v2. Creating a cgroup and setting its
// limits is the OCI engine's work; this package does what must work without one: count, kill, freeze,
// measure, remove.
//
// # Paths
//
// A path is absolute and is joined to the mount point of each hierarchy, as libcontainer's fs and fs2
// managers place an absolute linux.cgroupsPath: the cgroup of the process itself plays no part. Within
// a container that was given only a part of a hierarchy, the mount point is that part, and paths
// lie below it. The root cgroup and paths with ".." are refused with [errdefs.ErrInvalidArgument].
//
// # Absence
//
// A cgroup that exists in no hierarchy is empty: it has no pids, and killing, thawing or removing it is
// done already. Only what needs the cgroup itself (Freeze, Stats, OOMKills, Frozen) reports
// [errdefs.ErrNotFound]. A controller that is not mounted, or a file that the kernel is too old to
// have, gives zero values.
//
// # Crashes
//
// Nothing is kept between calls but the list of mounts, read once. Each call may be killed anywhere and
// made again, by any process.
package cgroup
