// SPDX-License-Identifier: Apache-2.0

// Package checkpoint makes images of containers that run, processes included, and containers of these.
//
// # On disk
//
// Criu writes into, and reads from, a directory: dump-RANDOM or restore-RANDOM of containers/<namespace>/<uid>/ below the root,
// which is removed when the checkpoint is in the content store, or the container restored. Beside it is RANDOM.lock, which the
// process that needs the directory holds. A dump with which the task ends is last-INCARNATION-RANDOM, and nothing else has the memory of
// that task: the directory stays until it is stored, or the container runs again.
//
// # After a crash
//
// The next checkpoint, or restore, of the container removes what is left of a killed one; so does its removal. The next checkpoint of a
// container that has ended with one that was not stored stores that.
package checkpoint
