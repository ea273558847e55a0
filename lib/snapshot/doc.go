// SPDX-License-Identifier: Apache-2.0

// Package snapshot keeps file system trees in layers, with containerd's meaning: a snapshot is active
// (being written), a view (being looked at) or committed (done; others can stand on it).
//
// A [Driver] has the trees and knows nothing of records; a [Snapshotter] is a driver with its records, and what callers
// use. [Overlay] stacks layers that were made apart; [Native] copies, and is for where no overlay can be mounted;
// [Btrfs] takes snapshots of subvolumes; [Erofs] stacks layers each of which is one file.
//
// # On disk
//
// Bucket snapshots/<driver> / namespace / key: the record. <root>/snapshots/<driver>/<id>/: the directory of a
// snapshot, in which fs is the tree itself; with overlayfs without what it stands on, and beside it work; with btrfs a subvolume, and beside it parent, the id of what it was a
// snapshot of. With erofs a committed one is the file layer.erofs alone. The id of an
// image's layer is its chain id, so that namespaces share it; other ids are random. <state>/l/<name>: a short name of a
// tree, for deep overlays. An active snapshot of a transient container has its record in run.db, on top of parents in
// meta.db.
//
// Mounts describes how to mount a snapshot and makes no mount: a container's is made by its supervisor's engine, out of
// the host's sight. Mount makes one in the mount namespace of the caller; nothing is recorded of it, and
// /proc/self/mountinfo tells whether a snapshot is mounted there.
//
// # Locks
//
// Records change in the caller's transaction. The lock snapshot <id> is held by Seal from the look to the
// commit, by Mount from the look to the mount, by Read as long as it reads an active one, and by lib/pull while a layer
// is unpacked. The collect lock is held exclusively by Delete and by Mount. Whoever is about to refer to a snapshot takes a lease first.
//
// An active snapshot has one user: a mount, a commit, a reader, a removal or the task of its container. A task is
// reserved under the lock of its container, which whoever mounts or reads the snapshot elsewhere holds meanwhile.
//
// # After a crash
//
// A directory is made before its record and removed after it, so one without a record is garbage. A mount that
// Mount made stays until it is unmounted, and keeps the snapshot.
package snapshot
