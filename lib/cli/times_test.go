// SPDX-License-Identifier: Apache-2.0

package cli

import "testing"

func TestParseTail(t *testing.T) {
	for text, want := range map[string]int{"all": -1, "-1": -1, "0": 0, "7": 7} {
		if got, err := ParseTail(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-2", "x", "1.5"} {
		if got, err := ParseTail(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}
