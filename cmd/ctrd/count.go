// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"iter"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/state"
)

// counter counts the records of a kind over all namespaces. Those that cannot be read are in lost.
func counter[T any](namespaces func(*state.Tx) ([]string, error), all func(*state.Tx, string) iter.Seq2[T, error]) func(*state.Tx, *error) (int, error) {
	return func(tx *state.Tx, lost *error) (n int, err error) {
		names, err := namespaces(tx)
		if err != nil {
			return 0, err
		}
		for _, ns := range names {
			for _, err := range all(tx, ns) {
				if errdefs.IsDataLoss(err) {
					*lost = errors.Join(*lost, err)
					continue
				}
				if err != nil {
					return 0, err
				}
				n++
			}
		}
		return n, nil
	}
}
