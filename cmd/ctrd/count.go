// SPDX-License-Identifier: Apache-2.0

package main

import (
	"iter"

	"ctrd.dev/ctrd/lib/state"
)

// counter counts the records of a kind over all namespaces.
func counter[T any](namespaces func(*state.Tx) ([]string, error), all func(*state.Tx, string) iter.Seq2[T, error]) func(*state.Tx) (int, error) {
	return func(tx *state.Tx) (n int, err error) {
		names, err := namespaces(tx)
		if err != nil {
			return 0, err
		}
		for _, ns := range names {
			for _, err := range all(tx, ns) {
				if err != nil {
					return 0, err
				}
				n++
			}
		}
		return n, nil
	}
}
