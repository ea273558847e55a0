// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"iter"

	"github.com/containerd/errdefs"
)

// Select gives what use makes of each record that fits, in the order of all. A record that cannot be read (errdefs.ErrDataLoss) hides
// none of the others: its error comes with the result. Any other error ends it. Without fitting records the result is nil.
func Select[T, R any](f Filter, all iter.Seq2[T, error], fields func(T) Fields, use func(T) (R, error)) ([]R, error) {
	var list []R
	var lost error
	for one, err := range all {
		if errdefs.IsDataLoss(err) {
			lost = errors.Join(lost, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if !f.Match(fields(one)) {
			continue
		}
		r, err := use(one)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, lost
}

// Readable leaves out the records that cannot be read, for clients who would be told nothing of the others. ctrd fsck names them.
func Readable[T any](all iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for one, err := range all {
			if !errdefs.IsDataLoss(err) && !yield(one, err) {
				return
			}
		}
	}
}
