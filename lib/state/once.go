// SPDX-License-Identifier: Apache-2.0

//go:build !twice

package state

// interrupt is for tests, see the build tag twice.
func interrupt() (twice, early bool) { return false, false }
