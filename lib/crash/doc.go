// SPDX-License-Identifier: Apache-2.0

// Package crash names the places where the kill tests kill.
//
// A build with the tag crashpoints reads two variables: CTRD_CRASH, a comma-separated list of points
// at which the process kills itself with SIGKILL, and CTRD_CRASH_TRACE, a file to which the name of
// every point that is passed is appended. An ordinary build compiles the points away.
package crash
