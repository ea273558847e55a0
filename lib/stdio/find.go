// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"errors"
	"io"
	"os"
	"time"
)

// scan is how many rotated files are looked for when the log does not say how many are kept.
const scan = 32

func (l Log) scan() int { return max(l.files(), scan) }

// oldest opens the oldest file.
func (l Log) oldest() (*os.File, error) {
	for i := l.scan(); i >= 0; i-- {
		f, err := os.Open(l.name(i))
		if err == nil || i == 0 || !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
	}
	panic("unreachable")
}

// successor opens the file that was written after f, or returns nil when there is none yet.
func (l Log) successor(f *os.File) (*os.File, error) {
	self, err := f.Stat()
	if err != nil {
		return nil, err
	}
	for tries := 0; ; tries++ {
		at := l.find(self)
		if at == 0 {
			return nil, nil
		}
		var next *os.File
		if at < 0 {
			next, err = l.oldest()
		} else {
			next, err = os.Open(l.name(at - 1))
		}
		if errors.Is(err, os.ErrNotExist) {
			// A rotation is under way, or the log was removed. A follower is woken by what comes.
			if tries == 3 {
				return nil, nil
			}
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return nil, err
		}
		// The writer renames the highest number first, so while f has kept its number, so has its successor.
		if l.find(self) == at {
			return next, nil
		}
		next.Close()
	}
}

// find tells how many times the file was rotated, or -1 when it is not there any more.
func (l Log) find(self os.FileInfo) int {
	for i := range l.scan() + 1 {
		if st, err := os.Stat(l.name(i)); err == nil && os.SameFile(st, self) {
			return i
		}
	}
	return -1
}

// lastLines opens the file in which the last n lines begin, and tells where.
func (l Log) lastLines(n int) (*os.File, int64, error) {
	var best *os.File
	var seen []os.FileInfo
	lines := n
	for i := range l.scan() + 1 {
		f, err := os.Open(l.name(i))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return best, 0, err
		}
		st, err := f.Stat()
		if err != nil || sawFile(seen, st) {
			f.Close()
			continue
		}
		seen = append(seen, st)
		if best != nil {
			best.Close()
		}
		best = f
		off, left, err := lastLinesOf(f, st.Size(), lines)
		if err != nil || left == 0 {
			return f, off, err
		}
		lines = left
	}
	if best == nil {
		return nil, 0, &os.PathError{Op: "open", Path: l.Path, Err: os.ErrNotExist}
	}
	return best, 0, nil
}

func sawFile(seen []os.FileInfo, st os.FileInfo) bool {
	for _, s := range seen {
		if os.SameFile(s, st) {
			return true
		}
	}
	return false
}

// lastLinesOf reads a file from its end in blocks. It gives the offset at which the last n lines begin, or
// how many of them lie in older files. A line ends with the whole record of either stream, so pieces of a
// first line that were mixed with the other stream's may be left out.
func lastLinesOf(f *os.File, size int64, n int) (off int64, left int, err error) {
	if n == 0 {
		return size, 0, nil
	}
	const block = readBuffer
	buf := make([]byte, 0, block)
	pos := size // the file offset of buf[0]
	tail := -1  // where the line that is looked at ends in buf; -1: nothing found yet
	inLine := false
	for {
		at := bytes.LastIndexByte(buf[:max(tail, 0)], '\n')
		if at < 0 && pos > 0 {
			// The start of this line lies before buf.
			step := int(min(pos, block))
			keep := max(tail, 0)
			if tail >= 0 && keep > maxLine {
				keep = 0
			}
			grown := make([]byte, step+keep)
			copy(grown[step:], buf[:keep])
			pos -= int64(step)
			if _, err := f.ReadAt(grown[:step], pos); err != nil && err != io.EOF {
				return 0, 0, err
			}
			buf = grown
			if tail < 0 {
				// What follows the last newline is not a record yet.
				end := bytes.LastIndexByte(buf, '\n')
				if end < 0 {
					buf = buf[:0]
					continue
				}
				tail = end
			} else {
				tail = step + keep
			}
			continue
		}
		if tail < 0 {
			return 0, n, nil
		}
		if rec, err := ParseRecord(buf[at+1 : tail]); err == nil && (!rec.Partial || !inLine) {
			if n == 0 {
				return pos + int64(tail) + 1, 0, nil
			}
			n--
			inLine = true
		}
		if at < 0 {
			return 0, n, nil
		}
		tail = at
	}
}
