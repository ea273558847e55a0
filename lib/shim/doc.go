// SPDX-License-Identifier: Apache-2.0

// Package shim supervises containers, one or those of a pod: it is the task service that answers containerd's
// task API, and the parent of the containers' processes.
//
// It stays small. What libcontainer does is done by the engine, a child process that ends; package ask is
// how the two speak.
//
// # On disk
//
// Each container has its task directory, which is its bundle. Nothing depends on the supervisor's working
// directory; the engine runs in the container's. The supervisor holds shim.lock as long as it lives and
// writes, each in one step: shim.json once its socket listens, init.json once the init process exists, and
// exit.json once init has ended, its output has been written to the end and nothing of the container is
// left but the directory. The engine's state is in engine/, an exec's process and exit in execs/<exec id>/.
// The container's rootfs is mounted on rootfs/, in the supervisor's own mount namespace.
//
// # Life
//
// The supervisor ends by itself: when its containers have ended and their execs with them, when the only
// Create fails, and when its starter dies before Start. Wait, State and Delete find it until then; afterwards
// exit.json tells.
//
// # After a crash
//
// A supervisor that is killed leaves the cgroups that each config.json names, with processes in them, engine/, a
// dead socket, and no exit.json. Its mounts are gone with it.
package shim
