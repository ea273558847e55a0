// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/smallfile"
	"ctrd.dev/ctrd/lib/tail"
)

// Read yields the events whose number is greater than since, oldest first; with follow it then waits
// for more until ctx ends. It finds its place without reading what is older. Events that were lost, or
// dropped before they were read, show as a gap in Seq.
func (j Journal) Read(ctx context.Context, since uint64, follow bool) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := j.read(ctx, since, follow, yield); err != nil && ctx.Err() == nil {
			yield(Event{}, err)
		}
	}
}

func (j Journal) read(ctx context.Context, since uint64, follow bool, yield func(Event, error) bool) error {
	r := reader{journal: j, since: since, follow: follow}
	defer r.close()
	if !follow {
		_, err := r.drain(yield)
		return err
	}
	if err := os.MkdirAll(j.Dir, 0o700); err != nil {
		return err
	}
	w, err := tail.Watch(j.Dir)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		before := r.since
		if more, err := r.drain(yield); !more || err != nil {
			return err
		}
		if r.since != before {
			w.Saw()
		}
		if len(r.buf) > readSize {
			r.buf = nil // it was for a long line
		}
		if err := w.Wait(ctx); err != nil {
			return err
		}
	}
}

// reader is how far a reader has come: the last number it saw, and where in which segment.
type reader struct {
	journal Journal
	since   uint64
	follow  bool
	name    string
	file    *os.File // nil: before the first segment
	ino     uint64   // of the file
	offset  int64
	buf     []byte
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close()
	}
}

// drain yields all whole lines that there are. It reports false when yield did. A follower looks at the
// directory only when its segment has nothing new or is full.
func (r *reader) drain(yield func(Event, error) bool) (bool, error) {
	for {
		before := r.offset
		if r.file != nil {
			if more, err := r.segment(yield); !more || err != nil {
				return more, err
			}
			if r.follow && r.offset > before && r.offset < segmentSize {
				return true, nil
			}
		}
		next, err := r.next()
		if next == nil || err != nil {
			return true, err
		}
		if r.file != nil {
			// A segment that has a successor is complete, but may have grown before that was made.
			if more, err := r.segment(yield); !more || err != nil {
				next.Close()
				return more, err
			}
		}
		if err := r.enter(next); err != nil {
			return true, err
		}
	}
}

// next opens the segment to go on with: the successor of the one that is open, or at first the one in
// which the event after since is or will be. It is nil when there is none yet.
func (r *reader) next() (*os.File, error) {
	for {
		names, err := r.journal.segments()
		if err != nil {
			return nil, err
		}
		for len(names) > 0 && names[0] <= r.name || len(names) > 1 && names[1] <= segmentName(r.since+1) {
			names = names[1:]
		}
		if len(names) == 0 {
			return nil, nil
		}
		f, err := smallfile.OpenFile(filepath.Join(r.journal.Dir, names[0]), os.O_RDONLY, 0)
		if !errors.Is(err, os.ErrNotExist) { // else it was dropped meanwhile
			return f, err
		}
	}
}

func (r *reader) enter(f *os.File) error {
	r.close()
	r.file, r.name, r.ino = f, filepath.Base(f.Name()), inode(f)
	var err error
	r.offset, err = seek(f, r.since)
	return err
}

// seek finds the beginning of a line, not far before the first event after since.
func seek(f *os.File, since uint64) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	low, high := int64(0), st.Size()
	for high-low > readSize {
		middle := low + (high-low)/2
		begin, seq, ok, err := lineAfter(f, middle, high)
		switch {
		case err != nil:
			return 0, err
		case ok && seq <= since:
			low = begin
		default:
			high = middle
		}
	}
	return low, nil
}

// lineAfter finds the first line that begins after an offset and before end, and its number.
func lineAfter(f *os.File, offset, end int64) (begin int64, seq uint64, ok bool, err error) {
	for size := int64(4 << 10); ; size *= 16 {
		buf := make([]byte, min(size, end-offset))
		n, err := f.ReadAt(buf, offset)
		if err != nil && err != io.EOF {
			return 0, 0, false, err
		}
		i := bytes.IndexByte(buf[:n], '\n') + 1
		if seq, ok := parseSeq(buf[i:n]); i > 0 && ok {
			return offset + int64(i), seq, true, nil
		}
		if n < len(buf) || offset+size >= end || size > 4*maxLine {
			return 0, 0, false, nil
		}
	}
}

// segment yields the whole lines from the offset on. It may run while another process cuts off the
// rest of a killed append and writes in its place.
func (r *reader) segment(yield func(Event, error) bool) (bool, error) {
	for {
		if more := r.recent(yield); !more {
			return false, nil
		}
		if r.buf == nil {
			r.buf = make([]byte, readSize)
		}
		n, err := r.file.ReadAt(r.buf, r.offset)
		if err != nil && err != io.EOF {
			return false, err
		}
		last := n < len(r.buf)
		end := bytes.LastIndexByte(r.buf[:n], '\n') + 1
		if end == 0 {
			if last {
				return true, nil
			}
			r.buf = make([]byte, 2*len(r.buf))
			continue
		}
		// What ends in a newline is never cut off again, but the beginning of its first line may have been
		// read before that line was written.
		if _, err := r.file.ReadAt(r.buf[:end], r.offset); err != nil {
			return false, err
		}
		for line := range bytes.Lines(r.buf[:end]) {
			r.offset += int64(len(line))
			if seq, ok := parseSeq(line); ok && seq <= r.since {
				continue
			}
			e, err := parse(line)
			if err != nil {
				return false, fmt.Errorf("event journal %s: damaged line: %w: %w", r.file.Name(), err, errdefs.ErrDataLoss)
			}
			if e.Seq <= r.since {
				continue
			}
			r.since = e.Seq
			if !yield(e, nil) {
				return false, nil
			}
		}
		if last {
			return true, nil
		}
	}
}

// recent yields what this process appended at the offset and has in memory still. It reports false when yield did.
func (r *reader) recent(yield func(Event, error) bool) bool {
	for {
		lines := r.journal.Tail.from(r.ino, r.offset)
		for _, l := range lines {
			r.offset = l.end
			if l.Seq <= r.since {
				continue
			}
			r.since = l.Seq
			if !yield(l.Event, nil) {
				return false
			}
		}
		if len(lines) == 0 {
			return true
		}
	}
}
