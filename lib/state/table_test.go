// SPDX-License-Identifier: Apache-2.0

package state

import (
	"testing"

	"github.com/containerd/errdefs"
)

// TestBytes: bytes come back from a table as they went in, also from JSON of a form that this program does not write.
func TestBytes(t *testing.T) {
	table := Table[[]byte]{Name: "things"}
	for data, want := range map[string]string{
		`"aGVsbG8="`: "hello", `""`: "", `null`: "", `"aGVs\u0062G8="`: "hello", ` "aGVsbG8=" `: "hello",
	} {
		if got, err := table.Decode("ns", "key", []byte(data)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", data, got, err)
		}
	}
	for _, data := range []string{`"aGVsbG8"`, `"`, `"aGVsb*8="`, `{}`, ``} {
		if got, err := table.Decode("ns", "key", []byte(data)); !errdefs.IsDataLoss(err) {
			t.Errorf("%s: %q, %v", data, got, err)
		}
	}
}
