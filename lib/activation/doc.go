// SPDX-License-Identifier: Apache-2.0

// Package activation keeps mounts that are made for a client or a task in the mount namespace of ctrd, as containerd's mount
// manager does (containerd, docs/mounts.md): it mounts all but the last of a list, or all of it, and says what is left for
// the caller to mount. A mount's type may have transformers before it: format/ puts what was mounted before into its words, mkdir/
// makes directories, mkfs/ makes a file with a file system. The type loop makes a loop device.
//
// # On disk
//
// Bucket mounts / namespace / name in run.db: the record. <state>/mounts/<id>/<n>: where a mount is mounted, or a link to a
// loop device; <state>/mounts/<id>/lock: held by the process that makes them, and then makes a task with them.
//
// # Locks
//
// The collect lock, shared, while the directory is made with its liveness lock held. None while something is mounted.
//
// # After a crash
//
// A directory is made before its record and removed after it. One without a record whose lock nobody holds is
// garbage: the next collection unmounts what is in it. A record stays as long as what its labels refer back to
// (containerd.io/gc.bref.*) or its lease. Both end with the boot, as the mounts do.
package activation
