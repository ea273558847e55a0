// SPDX-License-Identifier: Apache-2.0

package filter

import "iter"

// Select gives what use makes of each record that fits, in the order of all. An error of either ends it. Without fitting
// records the result is nil.
func Select[T, R any](f Filter, all iter.Seq2[T, error], fields func(T) Fields, use func(T) (R, error)) ([]R, error) {
	var list []R
	for one, err := range all {
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
	return list, nil
}
