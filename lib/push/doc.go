// SPDX-License-Identifier: Apache-2.0

// Package push brings an image from the state directory to a registry.
//
// What is pushed is decided before a byte goes out: the manifests that are here, for the platforms that are
// wanted, and the blobs that they name. What the registry has is skipped; what another of its repositories is
// known to have is mounted from there; the rest is sent, several blobs side by side. Manifests follow when all
// their blobs are there, and indexes when all their manifests are, so that a registry never has a name for
// something incomplete.
//
// # On disk
//
// <state>/uploads/HEX: the address at which the upload of one blob to one repository goes on; HEX.new: one that is being
// written; HEX.lock: the liveness lock of the process that uploads it.
//
// # Locks
//
// A lease names every blob before it is looked for. The lock of the rank image of a registry's tag is held while an index of
// referrers is changed there, and no other.
//
// # After a crash
//
// Blobs that had arrived whole are found there by the next push. It goes on with a blob of which the registry still
// has a part, and begins anew with one whose upload the registry has given up, as some do with every connection that
// breaks. The record of where blobs have gone is a hint: a push that could not write it is done all the same.
package push
