// SPDX-License-Identifier: Apache-2.0

package content

import (
	"math/rand/v2"
	"testing"
)

// The set agrees with a plain array of booleans, whatever is added in whatever order.
func TestRangesAgainstArray(t *testing.T) {
	const size = 60
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var set ranges
		var bits [size]bool
		for range 12 {
			a := r.IntN(size)
			b := a + r.IntN(size-a+1)
			set = set.add(Range{int64(a), int64(b)})
			for n := a; n < b; n++ {
				bits[n] = true
			}
		}
		var got [size]bool
		last := int64(-1)
		for _, x := range set {
			if x.Start <= last || x.Start >= x.End {
				t.Fatalf("seed %d: %v is not in order", seed, set)
			}
			last = x.End
			for n := x.Start; n < x.End; n++ {
				got[n] = true
			}
		}
		if got != bits {
			t.Fatalf("seed %d: %v", seed, set)
		}
		sum := set.total()
		for _, m := range set.missing(size) {
			sum += m.Len()
			for n := m.Start; n < m.End; n++ {
				if bits[n] {
					t.Fatalf("seed %d: %d is there and missing", seed, n)
				}
			}
		}
		if sum != size {
			t.Fatalf("seed %d: there and missing are %d together", seed, sum)
		}
		for n := range int64(size) {
			end := set.upTo(n)
			if bits[n] != (end > n) || end < size && bits[end] {
				t.Fatalf("seed %d: upTo(%d) is %d in %v", seed, n, end, set)
			}
		}
	}
}

func FuzzParseRanges(f *testing.F) {
	f.Add("0 5\n10 20\n", int64(100), int64(100))
	f.Add("0 5\n10 2", int64(6), int64(100))
	f.Add("-1 9223372036854775807\n", int64(1), int64(1))
	f.Fuzz(func(t *testing.T, text string, have, size int64) {
		if have < 0 || size < 0 {
			return
		}
		set, whole, ok := parseRanges(text, have, size)
		if !ok {
			return
		}
		if whole > int64(len(text)) || whole > 0 && text[whole-1] != '\n' {
			t.Errorf("whole is %d of %q", whole, text)
		}
		for _, r := range set {
			if r.Start < 0 || r.Start >= r.End || r.End > have || r.End > size {
				t.Errorf("%v of %d and %d", r, have, size)
			}
		}
	})
}
