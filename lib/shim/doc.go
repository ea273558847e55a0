// SPDX-License-Identifier: Apache-2.0

// Package shim supervises one container: it is the task service that answers containerd's task API, and
// the parent of the container's processes.
//
// It stays small. What libcontainer does is done by the engine, a child process that ends; package ask is
// how the two speak.
//
// # On disk
//
// The working directory is the task directory. The supervisor holds shim.lock as long as it lives and
// writes, each in one step: shim.json once its socket listens, init.json once the init process exists, and
// exit.json once init has ended, its output has been written to the end and nothing of the container is
// left but the directory. The engine's state is in engine/, an exec's process and exit in execs/<exec id>/.
// The container's rootfs is mounted on rootfs/, in the supervisor's own mount namespace.
//
// # Life
//
// The supervisor ends by itself: when its container has ended and its execs with it, when Create fails,
// and when whoever started it dies before Start. Wait, State and Delete find it until then; afterwards
// exit.json tells.
//
// # After a crash
//
// A supervisor that is killed leaves the cgroup that config.json names, with processes in it, engine/, a
// dead socket, and no exit.json. Its mounts are gone with it.
package shim
