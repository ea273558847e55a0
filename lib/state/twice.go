// SPDX-License-Identifier: Apache-2.0

//go:build twice

package state

import "sync/atomic"

var calls atomic.Uint32

// interrupt lets every View, Update and UpdateRun call its function twice, so that tests find functions that must not be. What the first
// call of an update has written is undone. Every other time the first call of a View is cut short, as by a commit, when it has read one thing.
func interrupt() (twice, early bool) { return true, calls.Add(1)%2 == 0 }
