// SPDX-License-Identifier: Apache-2.0

package content

import (
	"slices"
	"strconv"
	"strings"
)

// Range is a span of bytes, from Start up to but without End.
type Range struct{ Start, End int64 }

// Len is the number of bytes.
func (r Range) Len() int64 { return r.End - r.Start }

// ranges is a set of bytes: spans in order that do not touch.
type ranges []Range

// add puts a span into the set.
func (s ranges) add(r Range) ranges {
	if r.Start >= r.End {
		return s
	}
	i, _ := slices.BinarySearchFunc(s, r.Start, func(x Range, start int64) int {
		switch { // the first span that ends at start or behind it
		case x.End < start:
			return -1
		case x.End > start:
			return 1
		}
		return 0
	})
	j := i
	for j < len(s) && s[j].Start <= r.End {
		r.Start, r.End = min(r.Start, s[j].Start), max(r.End, s[j].End)
		j++
	}
	return slices.Replace(s, i, j, r)
}

// missing is what of the bytes 0 to size is not in the set.
func (s ranges) missing(size int64) []Range {
	var out []Range
	var pos int64
	for _, r := range s {
		if r.Start > pos {
			out = append(out, Range{pos, r.Start})
		}
		pos = r.End
	}
	if pos < size {
		out = append(out, Range{pos, size})
	}
	return out
}

// upTo is the end of the run of bytes that begins at pos, or pos.
func (s ranges) upTo(pos int64) int64 {
	for _, r := range s {
		if r.Start <= pos && pos < r.End {
			return r.End
		}
	}
	return pos
}

func (s ranges) total() int64 {
	var n int64
	for _, r := range s {
		n += r.Len()
	}
	return n
}

// line is how one piece is written down.
func (r Range) line() string {
	return strconv.FormatInt(r.Start, 10) + " " + strconv.FormatInt(r.Len(), 10) + "\n"
}

// parseRanges reads a ranges file for a blob of size bytes of which the data file holds have. whole is
// the length of the text without a last line that a killed process left unfinished. It is not ok when
// a line is not of the form, or beyond the data: then nothing of it is to be believed.
func parseRanges(text string, have, size int64) (set ranges, whole int64, ok bool) {
	text = text[:strings.LastIndexByte(text, '\n')+1]
	for line := range strings.Lines(text) {
		a, b, found := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		off, err1 := strconv.ParseUint(a, 10, 62)
		n, err2 := strconv.ParseUint(b, 10, 62)
		r := Range{int64(off), int64(off + n)}
		if !found || err1 != nil || err2 != nil || n == 0 || r.End > have || r.End > size {
			return nil, 0, false
		}
		set = set.add(r)
	}
	return set, int64(len(text)), true
}
