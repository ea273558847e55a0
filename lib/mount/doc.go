// SPDX-License-Identifier: Apache-2.0

// Package mount carries out the mounts that snapshots are described by: containerd's types, sources and
// options, on Linux.
package mount
