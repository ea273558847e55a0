// SPDX-License-Identifier: Apache-2.0

// Package crash names the places where the kill tests kill.
//
// A build with the tag crashpoints reads three variables. CTRD_CRASH is a comma-separated list of
// points at which the process kills itself with SIGKILL, CTRD_STOP one of points at which it stops
// itself with SIGSTOP; point@N means the N-th time that a process passes the point. CTRD_CRASH_TRACE
// is a file to which the name of every point that is passed is appended, or a directory in which each
// process has such a file of its own, called PROGRAM.PID. An ordinary build compiles the points away.
package crash
