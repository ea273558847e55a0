// SPDX-License-Identifier: Apache-2.0

package native

// listBlock is how many records a message of a list has at most, where a list is sent in blocks.
const listBlock = 100

// inBlocks sends a list, and no message for an empty one.
func inBlocks[M any](all []M, send func([]M) error) error {
	for len(all) > 0 {
		n := min(len(all), listBlock)
		if err := send(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// sure is a translation that cannot fail, for filter.Select.
func sure[T, M any](message func(T) M) func(T) (M, error) {
	return func(one T) (M, error) { return message(one), nil }
}
