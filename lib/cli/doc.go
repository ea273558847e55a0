// SPDX-License-Identifier: Apache-2.0

// Package cli is the shape of every command: flags, operands, output, messages, signals, exit status,
// completion.
//
// A command is made by [Root] (and [New] for each verb), which refuse one that does not say what it does,
// what it reads and prints, how it is used and how it exits; the man pages are made from that. [Main]
// runs it. stdout carries data alone: one record a line, key first ([Table]). stderr carries talk:
// "ctr-snap: text" and "hint: text". The exit status comes from the errdefs kind of the error ([Status]).
//
// Names of images, containers and snapshots flow between commands: the operand "-" reads them from stdin,
// one a line ([Operands]), or one alone with the rest of stdin left for the program ([ReadName]).
package cli
