// SPDX-License-Identifier: Apache-2.0

// Package archive brings images in from files and writes them out to files, and makes an image of a container.
//
// Two formats are read, by what is in the archive and not by its name: the OCI image layout (image-layout.md of the
// OCI image specification: index.json and blobs/), as skopeo, podman, umoci, buildkit, docker and containerd write
// it; and docker-archive (manifest.json, with files that it names), as docker save wrote it before. An archive that
// has both counts as an OCI layout. A stream is read once, from its beginning to its end: each file goes into
// the content store as it comes, before the archive has said what it is.
//
// The archive is hostile input. No name in it becomes a name on the disk: a blob is stored under the digest of its
// bytes, and links are followed in a table of what the archive has. What is read into memory is bounded.
//
// # Order of writing
//
// As lib/pull does it: blobs and layers are put in place unrecorded, synced once, and recorded with all names of
// all images of the archive in one commit. A lease names each blob before it is looked for.
//
// # After a crash
//
// Blobs that were on their way have no name and are gone. Those that had arrived, and layers, are garbage unless
// the next import in this boot finds them.
package archive
