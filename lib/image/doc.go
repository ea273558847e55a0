// SPDX-License-Identifier: Apache-2.0

// Package image keeps the names of images, and reads what a name leads to: an index, a manifest, a
// configuration.
//
// # On disk
//
// Bucket images / namespace / name: the target's descriptor, labels, times. A name is a normalised
// reference (docker.io/library/redis:7); names that came in through an API are kept as they came. What
// the target is made of lies in lib/content.
//
// # Locks
//
// None of its own: a record is written in one transaction.
//
// # After a crash
//
// A record is written in the same commit as the records of all the blobs it leads to, after they were
// synced. So an image that is there is whole.
package image
