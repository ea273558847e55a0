// SPDX-License-Identifier: Apache-2.0

// Package lock is the locking language of the state directory: many short-lived processes, no daemon.
//
// Two kinds of lock exist. An object lock ([Dir.Acquire]) guards a name for the length of one deed. It
// waits in the kernel (flock, so that processes queue instead of polling), has a deadline, and its error
// says who holds it. A liveness lock ([Hold]) says "I am alive" for as long as its process lives. It is an
// open-file-description lock, so that asking whether it is held ([IsHeld]) takes nothing.
//
// # Order
//
// Locks nest in one order only: pod < container < network < image < snapshot < blob < collect < database. The
// order is checked when a lock is taken: the caller hands over the lock it already holds, and a rank
// that is not above it panics. Liveness locks never wait and so have no rank.
//
// # On disk
//
// Lock files live in a directory of this boot (tmpfs), one folder a rank, named after the object. A
// holder writes its pid, the time and its command into the file. A released exclusive object lock
// removes its file; whoever acquires re-checks that the file is still the one with that name.
//
// # After a crash
//
// The kernel drops the locks of a dead process. A file that is left is taken over by the next holder, or
// removed by [Dir.Sweep].
package lock
