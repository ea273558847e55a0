// SPDX-License-Identifier: Apache-2.0

package image

import "ctrd.dev/ctrd/lib/reference"

// Reference is what an image is called: where it comes from, and under which tag or digest.
type Reference = reference.Reference

// Parse reads a reference as docker users write it; see [reference.Parse].
func Parse(s string) (Reference, error) { return reference.Parse(s) }

// IsTag tells whether s can be a tag.
func IsTag(s string) bool { return reference.IsTag(s) }

// Familiar shortens a record's name; a name that is no reference stays as it is.
func Familiar(name string) string { return reference.Familiar(name) }

// short bounds outside text in a message.
func short(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}
