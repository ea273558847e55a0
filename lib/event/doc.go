// SPDX-License-Identifier: Apache-2.0

// Package event keeps the journal: every change that any process makes, in order, with containerd's
// topics and payloads.
//
// # On disk
//
// <state>/events/<first sequence number, 20 digits>: segments of JSON lines, one [Event] a line. A
// segment ends at about one MiB; the newest eight are kept, so a reader that was away too long finds a
// gap in the sequence numbers and must look at the state instead. <state>/events/lost has a byte for each
// event that could not be appended.
//
// # Locks
//
// Appending takes the lock <state>/events/database/journal for the length of one write. Reading takes nothing.
// No deed waits long for the lock: an event that cannot be appended within the [Patience] of its process
// is lost. Its number is left out, and the next event says how many were lost.
//
// # After a crash
//
// A line without its newline is the rest of a killed append: the next append cuts it off, readers wait
// for the newline. A change is committed before its event is appended, so a process killed between the
// two leaves a change without an event: a subscriber that must not miss anything compares the state
// when it starts, and the journal tells it what came after.
package event
