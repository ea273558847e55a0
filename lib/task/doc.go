// SPDX-License-Identifier: Apache-2.0

// Package task is the life of a container: create, start, exec, signal, wait, remove. A running
// container is a task: a supervisor (ctr-shim), its processes and a directory.
//
// # On disk
//
// <state>/tasks/<namespace>/<id>/ is the task. Who writes what: the starter config.json, stdin,
// start.lock and spawn.lock, which the supervisor inherits and so holds from its first moment on; the
// supervisor shim.lock, shim.json, init.json and exit.json; a client of a transient container
// client.lock. What a task is doing follows from these files alone, so that listing asks nobody:
//
//	no directory                        the container is created
//	start.lock held, no init.json       it is being started
//	shim.lock held, no exit.json        it runs (or is paused: its cgroup says so)
//	exit.json                           it has ended
//	no lock held, no exit.json          whoever had it was killed: Finish ends it
//
// # Locks
//
// Making and removing the directory, and Finish, happen under the lock container <namespace>/<id>.
// A start does not hold that lock: that one is in progress is what start.lock says. Finish does, while
// it waits for the killed processes of a dead task to go.
//
// # After a crash
//
// Start.lock, spawn.lock and shim.lock end with their processes. Finish kills what is left in the container's
// cgroup, removes the cgroup, and writes exit.json with status 137; of a transient container it
// removes everything. Every verb and every listing calls it for what it meets, without waiting.
package task
