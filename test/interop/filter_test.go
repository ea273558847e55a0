// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/log"

	"ctrd.dev/ctrd/lib/filter"
)

// TestFilters: what containerd takes for a filter is one here, and fits the same records. The filters are put together
// at random from parts of filters and from characters that mean something in them.
func TestFilters(t *testing.T) {
	parts := []string{
		"id", "labels", "labels.a.b", `labels."a b"`, `"id"`, "x_1", "none", "==", "!=", "~=", "=", "!", "~", ".", ",", ", ", " ", "\t", "\n",
		`"`, "/", "|", `\`, `"web"`, "/w.b/", "|^w|", `"\x77e\142"`, `"\u0077eb"`, `"\U00110000"`, `"\ud800"`, `"\400"`, `"\|"`, `/\//`, `|\||`, `/\d/`,
		"web", "a, b", "(", "[", "'", "`", "*", "-", "\x00", "\x01", "\xff", "\ufffd", "\u00a0", "\u2028", "ä", "²", "0", "8",
	}
	labels := map[string]string{"a.b": "c", "a b": "d", "": "e"}
	record := filter.Container("web", "image", "runtime", labels)
	plain := filters.AdapterFunc(func(path []string) (string, bool) { return record(path) })
	if err := log.SetLevel("fatal"); err != nil { // containerd logs each wrong regular expression
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for range 300_000 {
		var b strings.Builder
		if random.IntN(3) > 0 {
			b.WriteString([]string{"id==", "id~=", "labels.", "id!=", "id,", `labels."a b"==`}[random.IntN(6)])
		}
		for range random.IntN(7) {
			b.WriteString(parts[random.IntN(len(parts))])
		}
		text := b.String()
		theirs, theirErr := filters.Parse(text)
		ours, err := filter.Parse(text)
		if (err == nil) != (theirErr == nil) {
			t.Fatalf("%q: %v; containerd: %v", text, err, theirErr)
		}
		if err != nil {
			continue
		}
		taken++
		if got, want := ours.Match(record), theirs.Match(plain); got != want {
			t.Fatalf("%q fits: %v; containerd: %v", text, got, want)
		}
	}
	if taken < 10_000 {
		t.Errorf("only %d of the random texts were filters", taken)
	}
}
