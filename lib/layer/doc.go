// SPDX-License-Identifier: Apache-2.0

// Package layer unpacks image layers: a tar stream, compressed or not, becomes a directory that
// overlayfs takes as a lower layer.
//
// The tar is hostile input. Every name is walked one component at a time from a descriptor of the
// directory, never through a symbolic link by the kernel; links are resolved here, inside the directory,
// as chroot would. So nothing outside is written or read, whatever the tar says and whatever another
// process does in the directory meanwhile.
//
// The format is the OCI image specification's layer (layer.md), which is a POSIX tar with PAX records
// (SCHILY.xattr.*) or GNU extensions, and whiteouts named .wh.*, as aufs had them. The result has
// whiteouts as overlayfs wants them (Documentation/filesystems/overlayfs.rst): a character device 0/0 for
// a removed name, the xattr trusted.overlay.opaque (user.overlay.opaque) for an opaque directory.
//
// Left out on purpose: xattrs that belong to the host and not to an image (overlayfs' own, SELinux
// labels, IMA and EVM signatures, NFSv4 ACLs), and what aufs kept in .wh..wh.* files.
package layer
