// SPDX-License-Identifier: Apache-2.0

// Package content keeps blobs: whatever has a digest. A blob is a file, shared by all namespaces, and
// one record in each namespace that may see it. There are two ways in: an [Ingest] brings a blob whose digest and
// size are known, in any order and for all namespaces; a [Writer] brings bytes in order under a ref of a namespace, with
// the meaning of containerd's content store.
//
// # On disk
//
// <root>/content/blobs/<algorithm>/<hex>: the blob. Its attribute user.ctrd.verified holds the id of the
// boot in which it was hashed.
//
// <root>/content/ingest/<algorithm>-<hex>/data, ranges: a blob on its way. ranges is text, one line
// "offset length" for each piece, appended after the piece has been written to data.
//
// <root>/content/ingest/ref-<hex>/data, ref, lock: what the writers of a ref have written. The name is the sha256 of
// namespace/ref; ref is JSON and says what is written under which name; the size of data is the offset.
//
// Bucket content / namespace / digest: size, labels, times.
//
// # Locks
//
// Lock blob <digest>: held by an [Ingest] from [Begin] or [Repair] to [Ingest.Close], so that each blob is
// fetched once, by one process, and the next who wants it waits and finds it. Reading takes none.
//
// A Writer holds the liveness lock in its directory, which nobody waits for. It takes the collect lock, shared, while
// it opens, and from the rename of its blob to the commit of the record.
//
// # After a crash
//
// An ingest keeps what had arrived, and the next Begin of the same digest goes on with it. A blob file
// without a record is trusted when it was hashed in this boot, as then no power cut can have eaten
// parts of it; otherwise it is hashed again before it is adopted. One that is found damaged is replaced, by
// the rename of a whole one. Commit of an Ingest does not sync: the caller syncs the file system before it records the
// blob. Commit of a Writer does, and records the blob itself.
//
// What a killed writer has written stays for the next one; after a reboot, what of it was synced. A blob that it had
// put in place and not recorded is garbage, or is taken over by a writer that expects it in the same boot.
package content
