// SPDX-License-Identifier: Apache-2.0

// Package stdio carries what containers read and write: log files that rotate and can be followed, FIFOs,
// and terminals.
//
// # On disk
//
// A log is a file in the format of the CRI (kubernetes' docs, "container runtime interface logging"), one
// record a line:
//
//	<RFC 3339 time, nanoseconds> <stdout|stderr> <P|F> <bytes>\n
//
// P says that the line goes on in the stream's next record. Rotation renames log to log.1, log.1 to log.2
// and so on, the highest first, and then makes a new log; so a reader that holds a file open finds its
// successor by where its own file is now. A shared log is renamed and made anew by somebody else, as the kubelet
// does; its writer looks, before each write, which file has the name.
//
// # After a crash
//
// The last record may lack its end; readers leave it out, and a writer that opens the log ends the line.
package stdio
