// SPDX-License-Identifier: Apache-2.0

// Package shim supervises containers, one or those of a pod: it is the task service that answers containerd's
// task API, and the parent of the containers' processes.
//
// It stays small. What libcontainer does is done by the engine, a child process that ends; package ask is
// how the two speak. It puts the process of an exec into the container itself where it can (engine.Enter).
//
// # On disk
//
// Each container has its task directory, which is its bundle. Nothing depends on the supervisor's working
// directory; the engine runs in the container's. In a directory with a task.json the supervisor holds
// shim.lock as long as it has the task and writes, each in one step: shim.json once its socket listens,
// init.json once the init process exists, started.json when it lets that go, lost.json when output cannot be
// written, and exit.json once init has ended, its output has been written to the end and nothing of the
// container is left but the directory. Where the starter has made bundle/ for containerd's tools, it writes init.pid there, and reads
// the FIFO log into shim.log. Without a task.json the client is containerd, and only init.pid is
// written. The engine's state is in engine/, an exec's process and exit in execs/<exec id>/. The container's
// rootfs is mounted on rootfs/, in the mount namespace of the engine that creates the container: the supervisor
// stays in the host's and has no mount of its own there.
//
// # Life
//
// The supervisor ends by itself when all its containers have ended and their execs with them, when the only
// Create fails, and when its starter dies before Create. A created container is kept until it is started or
// deleted; only the death of a client that owns it (task.json) ends it. Wait, State and Delete find a
// container until the supervisor ends; afterwards exit.json tells. One that serves containerd lives until
// Shutdown, one that has a sandbox until ShutdownSandbox.
//
// After the end of a task the supervisor does what task.json asks for: it has the container removed, or, after
// a back-off, started again. Before that it lets go of shim.lock.
//
// # After a crash
//
// A supervisor that is killed leaves the cgroups that each config.json names, with processes in them, engine/, a
// dead socket, and no exit.json. No mount is left.
package shim
