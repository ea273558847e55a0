// SPDX-License-Identifier: Apache-2.0

// Package pid1 is the first process of a container that was made with --init: it starts the program as its
// child, passes every signal that it gets on to it, reaps whatever becomes its child, and ends with the
// program's status, or with 128+n when signal n ended it.
//
// Importing the package is enough: a program that is run as
//
//	NAME pid1 -- PROGRAM [ARGUMENT]...
//
// never comes to main. The work is done in C before the Go runtime starts, because the process stays as long as
// the container: it then costs about 100 KiB instead of some megabytes, has one thread, and no runtime that
// takes signals for itself. A program that cannot be run is told on stderr, and the status is 127 when it is not
// there and 126 otherwise, as a shell has it.
//
// NAME pid1 rest is the first process of a PID namespace that the containers of a pod share. It starts nothing, and
// ends when the pipe that it has at descriptor 3 closes; the kernel then kills what is left in the namespace.
//
// NAME pid1 pin KINDS HOSTNAME [SYSCTL VALUE]... finishes the new namespaces of a pod, in which it was born: see pid1.h. It says
// "ok" at descriptor 4, or what went wrong, and ends as rest does, which it becomes in a PID namespace.
//
// The program is in a process group of its own, which is the foreground group of the terminal if there is one:
// a signal that is typed reaches it once, from the kernel.
package pid1

import "C" // the constructor in pid1.c, to which glibc gives argc and argv
