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
// /etc/passwd and /etc/group come from the image, or from the volume that covers them. [LayerFS] reads them out of the layers of an overlay
// that need not be mounted, and follows links within those layers only. What is read is bounded, and
// is a regular file.
//
// # At each start
//
// Some of what a container gets follows from the moment of its start and is no part of the kept specification:
// the seccomp profile ([WithSeccomp]), the namespaces of other containers ([Join]), and the files that lie in the
// bundle ([WriteFiles]).
//
// # Errors
//
// Everything wrong with an option is errdefs.ErrInvalidArgument; the text names the flag, the value and
// what would be right. What is wrong with the image's configuration names the image's field and is
// errdefs.ErrNotImplemented.
package spec
