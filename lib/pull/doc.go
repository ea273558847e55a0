// SPDX-License-Identifier: Apache-2.0

// Package pull brings an image from a registry into the state directory.
//
// Every layer goes through in one pass and all layers side by side: socket, ingest file, digest,
// decompression, diff id, files in a directory of its own. Layers are stacked only by their records, so
// no layer waits for the one below it. A large layer is fetched in several ranges at once.
//
// # Order of writing
//
// Blobs and layer directories are renamed into place as each is finished and checked, and stay
// unrecorded. At the end one syncfs makes all of them durable, and one commit records blobs, snapshots
// and the image. So a pull costs one durable commit, and an image that is there is whole.
//
// # Locks
//
// A lease names every blob and layer before it is looked for. Each layer's worker holds that layer's
// snapshot lock and, inside it, its blob lock, and nothing while it waits for either. So each layer is
// fetched and unpacked once, by whichever process comes first; the others wait and find it. The commit
// is made with no other lock held.
//
// # After a crash
//
// Bytes that had arrived are kept and not asked for again. A layer directory is complete as soon as it
// has its name; it is trusted within the boot in which it was made, and thrown away after another.
package pull
