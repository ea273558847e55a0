// SPDX-License-Identifier: Apache-2.0

// Package content keeps blobs: whatever has a digest. A blob is a file, shared by all namespaces, and
// one record in each namespace that may see it.
//
// # On disk
//
// <root>/content/blobs/<algorithm>/<hex>: the blob. Its attribute user.ctrd.verified holds the id of the
// boot in which it was hashed.
//
// <root>/content/ingest/<algorithm>-<hex>/data, ranges: a blob on its way. ranges is text, one line
// "offset length" for each piece, appended after the piece has been written to data.
//
// Bucket content / namespace / digest: size, labels, times.
//
// # Locks
//
// Lock blob <digest>: held by an [Ingest] from [Begin] or [Repair] to [Ingest.Close], so that each blob is
// fetched once, by one process, and the next who wants it waits and finds it. Reading takes none.
//
// # After a crash
//
// An ingest keeps what had arrived, and the next Begin of the same digest goes on with it. A blob file
// without a record is trusted when it was hashed in this boot, as then no power cut can have eaten
// parts of it; otherwise it is hashed again before it is adopted. One that is found damaged is replaced, by
// the rename of a whole one. Commit does not sync: the caller syncs the file system before it records the
// blob.
package content
