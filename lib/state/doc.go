// SPDX-License-Identifier: Apache-2.0

// Package state is the state directory: its two databases, its paths and its transactions.
//
// # On disk
//
// Two directories. The root (/var/lib/ctrd) is durable: meta.db, and the files that its records name.
// The state (/run/ctrd) lives as long as this boot: run.db with the records of transient things, locks,
// tasks, events. Both databases are bbolt files with the same shape: bucket kind / bucket namespace /
// key -> JSON record. Only relative names are stored, so either directory can be moved.
//
// The first command of a boot makes a root and a state directory a pair: a file pair in each has the same
// random id. From then on neither opens with another one, which would know nothing of the locks, tasks and
// records of the first. A root that several machines share is not protected so: each machine has its own boot.
//
// Everything that is kept obeys two sentences. Write: file, fsync, rename, fsync directory, then the
// record. Remove: the record, then the file. So a crash can leave a file that no record names, never a
// record whose file is missing.
//
// # Locks
//
// A writer queues on our own lock (rank database, one a file), then opens, commits and closes. bbolt's
// file lock, which polls, is always free by then. A reader takes no lock: it reads the pages that it needs and knows
// by the two meta pages, read before and after, that they are of one commit. So a stopped
// writer stops no reader, and a stopped reader stops nobody.
//
// # After a crash
//
// bbolt commits by one page write: a killed writer leaves the commit before. A new boot id makes
// everything that is ctrd's in the state directory stale at once: it goes to the trash when the directory
// is opened. What has another name is not touched, and neither is a directory that was never stamped.
// A database that is damaged or newer than this program is reported and left as it is.
package state
