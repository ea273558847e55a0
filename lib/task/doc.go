// SPDX-License-Identifier: Apache-2.0

// Package task is the life of containers and of what runs in them.
//
// # The words
//
// A container is a record: image, spec, snapshot, runtime (lib/container). Its id is a name, which another
// container can have later; its uid is its identity.
//
// A task is one start of a container, its incarnation: a directory, a supervisor (a shim) and processes. Its
// identity is the incarnation, a random name that is never used again. A container has one task at most.
//
// A [Task] is a handle: it names one container by uid and, if there is one, one incarnation. [Find] makes it
// from what a person typed and is the only lookup of that kind; [Open] makes it from an exact id. Each act on
// a handle concerns that container and that incarnation, and leaves any other of the same id alone.
//
// # The states
//
//	              Create            Start            the program ends
//	created --------------> created -------> running -----------------> stopped
//	no task     starting    its init waits     | ^                        |
//	                                     Pause v | Resume          Start: a new incarnation
//	                                         paused
//
//	starting   the starter is at it: start.lock is held
//	created    no task yet, or the init process waits (init.json): as long as it must, whoever lives
//	running    started.json; paused when its cgroup is frozen
//	stopped    exit.json: nothing of it is left but the directory and the log
//	restarting the same, and it is about to be started again by its policy
//	orphaned   starter and supervisor were killed: neither holds its lock, and no exit is recorded
//
// taskdir.Look is the one place that answers what a task is doing. It reads files and asks nobody.
//
// # The acts that end
//
//	Kill    sends a signal and waits for nothing
//	Stop    asks with the stop signal, and after the grace does what End does
//	End     kills all of the task and returns when its exit is recorded, whatever its supervisor does
//	Remove  removes a container that does not run, with all that is kept of it; forced, it calls End first
//	Tidy    ends orphans and removes what removals that were cut short have left
//
// # The owner
//
// task.json says who removes the container when the task has ended, and whose death ends it: see
// taskdir.Owner. Only a foreground `run --rm` ends with a process. The death of anything else ends nothing.
//
// # Locks
//
// The task directory and the link to its bundle are made and removed, and an orphan is ended, under the lock container <namespace>/<id>.
// Whoever has taken that lock checks first that the id is still that of the container it means. No lock is
// held during a start: start.lock says that one is under way, and goes with the starter.
//
// # After a crash
//
// The locks in the task directory go with their processes. An orphan is ended by the next act on it or by
// [Tidy], which gc calls: what is left in its cgroup is killed and status 137 recorded; of a transient
// container everything is removed. Listings report it and change nothing.
package task
