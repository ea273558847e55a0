// SPDX-License-Identifier: Apache-2.0

// Package spec makes the OCI runtime specification of a container from the configuration of its image
// and the options of ctr-task run and create.
//
// # Defaults
//
// They are those that docker and containerd share: capabilities, seccomp profile, masked and read-only
// paths, mounts, PATH. Where the two differ and a person would notice, docker's way is taken:
// --memory bounds memory and swap together at twice its value, -v makes a missing source directory,
// a non-root user has no effective capabilities, unprivileged ports start at 0.
//
// The devices that every container has (/dev/null and its kin) are not in the specification: the OCI
// engines add them, with their device cgroup rules.
//
// # Outside bytes
//
// /etc/passwd and /etc/group come from the image. [LayerFS] reads them out of the layers of an overlay
// that need not be mounted, and follows links within those layers only. What is read is bounded, and
// is a regular file.
//
// # Errors
//
// Everything wrong with an option is errdefs.ErrInvalidArgument; the text names the flag, the value and
// what would be right.
package spec
