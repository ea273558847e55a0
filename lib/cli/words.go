// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"
	"strings"
)

// OneOf refuses values of an option that are none of the known words.
func OneOf(option string, values, known []string) error {
	for _, v := range values {
		if !slices.Contains(known, v) {
			return Usagef("%s: %q is none of %s", option, v, strings.Join(known, ", "))
		}
	}
	return nil
}

// Quote joins words to a command line that a shell takes apart again.
func Quote(words ...string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.:/=_+@%-"
	var line []string
	for _, w := range words {
		if w == "" || strings.Trim(w, plain) != "" {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		line = append(line, w)
	}
	return strings.Join(line, " ")
}
