// SPDX-License-Identifier: Apache-2.0

// Package snapshot keeps file system trees in layers, with containerd's meaning: a snapshot is active
// (being written), a view (being looked at) or committed (done; others can stand on it).
//
// # On disk
//
// Bucket snapshots/overlayfs / namespace / key: the record. <root>/snapshots/overlayfs/<id>/fs and work:
// the tree itself, without what it stands on. The id of an image's layer follows from its chain id, so
// that namespaces share it; other ids are random. An active snapshot of a transient container has its
// record in run.db, on top of parents in meta.db.
//
// # Locks
//
// None of its own: records change in the caller's transaction. Unpacking a layer is done under the lock
// snapshot <chain id> (lib/pull). Whoever is about to refer to a snapshot takes a lease first.
//
// # After a crash
//
// A directory is made before its record and removed after it, so one without a record is garbage.
package snapshot
