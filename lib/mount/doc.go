// SPDX-License-Identifier: Apache-2.0

// Package mount mounts what a snapshot or a container needs, and takes it away again.
//
// A [Mount] has containerd's meaning (api/types/mount.proto): options as fstab has them, of which those
// that are flags to the kernel become flags and the rest the file system's own options. Everything works
// in the mount namespace of the process and needs nothing newer than Linux 5.4.
//
// mount(2) takes one page of options, which the names of some 75 layers fill. An overlay of more is made with the
// layers one by one where the kernel has that (fsconfig(2), Linux 6.7), and else by a thread whose working directory
// is that of its descriptors, so that a layer's name is a number. The kernel stacks 500 layers ([MaxLayers]).
//
// The options uidmap= and gidmap= of an overlay show its lower directories with other owners: through a mapped
// mount (Linux 5.19, and a file system that can), else by copies in the upper directory, which take the time and the
// room of the layers once. Those of a bind mount show all that is bound so, through a mapped mount alone.
//
// A list in which the type of a mount begins with "format/" is one mount: its texts name the mounts before it, which are made
// in a mount namespace of a thread and seen nowhere ([Fill]). [Detached] mounts something to be read by way of a descriptor.
//
// A target is used by a descriptor of it, so that it cannot become a symbolic link between the look and
// the mount; a target that is one is refused.
package mount
