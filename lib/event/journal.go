// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/tail"
)

// Event is one line of the journal.
type Event struct {
	Seq       uint64          `json:"seq"`
	Time      time.Time       `json:"time"`
	Namespace string          `json:"namespace"`
	Topic     string          `json:"topic"`
	Type      string          `json:"type"`
	Data      json.RawMessage `json:"event"`
}

// Journal is the journal in a directory, which Append makes when it is missing.
type Journal struct {
	Dir string
	// Wait is how long Append may wait for its lock: at least a tenth of a second, in which any number of
	// others append, and at most ten. Zero is ten.
	Wait time.Duration
}

const (
	segmentSize = 1 << 20
	segments    = 8
	maxLine     = 1 << 20
	readSize    = 256 << 10
	minWait     = 100 * time.Millisecond
	maxWait     = 10 * time.Second
)

// Append adds the payloads to the journal in this order, numbered without a gap.
func (j Journal) Append(ns string, payloads ...Payload) error {
	if len(payloads) == 0 {
		return nil
	}
	l, err := lock.Dir{Path: j.Dir, Wait: j.wait()}.Acquire(context.Background(), nil, lock.Database, "journal", lock.Exclusive)
	if err != nil {
		return fmt.Errorf("event journal: %w", err)
	}
	defer l.Release()
	f, next, err := j.tail()
	if err != nil {
		return fmt.Errorf("event journal: %w", err)
	}
	defer f.Close()
	var buf bytes.Buffer
	for _, p := range payloads {
		data, err := json.Marshal(p)
		if err != nil {
			return fmt.Errorf("event %s: %w", p.Topic(), err)
		}
		line, err := json.Marshal(Event{next, time.Now().UTC(), ns, p.Topic(), p.Type(), data})
		if err != nil {
			return fmt.Errorf("event %s: %w", p.Topic(), err)
		}
		buf.Write(append(line, '\n'))
		next++
	}
	if _, err := f.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("event journal: %w", err)
	}
	return nil
}

func (j Journal) wait() time.Duration {
	if j.Wait <= 0 {
		return maxWait
	}
	return min(max(j.Wait, minWait), maxWait)
}

// tail opens the segment to append to, with what a killed append left cut off, and tells the next
// sequence number.
func (j Journal) tail() (*os.File, uint64, error) {
	names, err := j.segments()
	if err != nil {
		return nil, 0, err
	}
	if len(names) == 0 {
		return j.create(1)
	}
	last := names[len(names)-1]
	f, err := os.OpenFile(filepath.Join(j.Dir, last), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, 0, err
	}
	next, size, err := lastSeq(f, last)
	if err == nil {
		err = f.Truncate(size) // nothing but the rest of a killed append is beyond it
	}
	if err == nil && size < segmentSize {
		return f, next, nil
	}
	f.Close()
	if err != nil {
		return nil, 0, err
	}
	for ; len(names) >= segments; names = names[1:] {
		os.Remove(filepath.Join(j.Dir, names[0]))
	}
	return j.create(next)
}

func (j Journal) create(seq uint64) (*os.File, uint64, error) {
	f, err := os.OpenFile(filepath.Join(j.Dir, segmentName(seq)), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	return f, seq, err
}

// lastSeq reads the end of a segment: the number after its last whole line, and its length up to there.
func lastSeq(f *os.File, name string) (next uint64, size int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	first, _ := strconv.ParseUint(name, 10, 64)
	start := max(0, st.Size()-64<<10)
	for {
		buf := make([]byte, st.Size()-start)
		if _, err := f.ReadAt(buf, start); err != nil && err != io.EOF {
			return 0, 0, err
		}
		end := bytes.LastIndexByte(buf, '\n') + 1
		begin := bytes.LastIndexByte(buf[:max(0, end-1)], '\n') + 1
		if (end == 0 || begin == 0) && start > 0 {
			start = max(0, start-maxLine)
			continue
		}
		size = start + int64(end)
		if end == 0 {
			return first, 0, nil
		}
		var e Event
		if err := json.Unmarshal(buf[begin:end], &e); err != nil {
			return 0, 0, fmt.Errorf("segment %s ends in a damaged line: %w: %w", name, err, errdefs.ErrDataLoss)
		}
		return e.Seq + 1, size, nil
	}
}

func segmentName(seq uint64) string { return fmt.Sprintf("%020d", seq) }

// segments lists the journal's files, oldest first.
func (j Journal) segments() ([]string, error) {
	entries, err := os.ReadDir(j.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if len(e.Name()) == 20 {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, err
}

// Read yields the events whose number is greater than since, oldest first; with follow it then waits
// for more until ctx ends. Events that were dropped before they were read show as a gap in Seq.
func (j Journal) Read(ctx context.Context, since uint64, follow bool) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		c := cursor{since: since}
		if !follow {
			if _, err := j.readFrom(&c, yield); err != nil {
				yield(Event{}, err)
			}
			return
		}
		if err := os.MkdirAll(j.Dir, 0o700); err != nil {
			yield(Event{}, err)
			return
		}
		w, err := tail.Watch(j.Dir)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer w.Close()
		for {
			more, err := j.readFrom(&c, yield)
			if err != nil {
				yield(Event{}, err)
				return
			}
			if !more || w.Wait(ctx) != nil {
				return
			}
		}
	}
}

// cursor is how far a reader has come: the last number it saw, and where in which segment.
type cursor struct {
	since  uint64
	name   string
	offset int64
}

// readFrom yields all whole lines after the cursor and moves it forward. It reports false when yield did.
func (j Journal) readFrom(c *cursor, yield func(Event, error) bool) (bool, error) {
	names, err := j.segments()
	if err != nil {
		return false, err
	}
	for i, name := range names {
		if name < c.name || i+1 < len(names) && names[i+1] <= segmentName(c.since+1) {
			continue
		}
		if name != c.name {
			c.name, c.offset = name, 0
		}
		f, err := os.Open(filepath.Join(j.Dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // dropped while we looked
		}
		if err != nil {
			return false, err
		}
		more, err := readSegment(f, c, yield)
		f.Close()
		if !more || err != nil {
			return more, err
		}
	}
	return true, nil
}

// readSegment yields the whole lines from the cursor on. It may run while another process cuts off the
// rest of a killed append and writes in its place.
func readSegment(f *os.File, c *cursor, yield func(Event, error) bool) (bool, error) {
	for buf := make([]byte, readSize); ; {
		n, err := f.ReadAt(buf, c.offset)
		if err != nil && err != io.EOF {
			return false, err
		}
		end := bytes.LastIndexByte(buf[:n], '\n') + 1
		if end == 0 {
			if n < len(buf) {
				return true, nil
			}
			buf = make([]byte, 2*len(buf))
			continue
		}
		// What ends in a newline is never cut off again, but the beginning of its first line may have been
		// read before that line was written.
		if _, err := f.ReadAt(buf[:end], c.offset); err != nil {
			return false, err
		}
		for line := range bytes.Lines(buf[:end]) {
			c.offset += int64(len(line))
			e, err := parse(line)
			if err != nil {
				return false, fmt.Errorf("event journal %s: damaged line: %w: %w", f.Name(), err, errdefs.ErrDataLoss)
			}
			if e.Seq <= c.since {
				continue
			}
			c.since = e.Seq
			if !yield(e, nil) {
				return false, nil
			}
		}
	}
}

func parse(line []byte) (Event, error) {
	var e Event
	err := json.Unmarshal(line, &e)
	return e, err
}

// Last is the number of the newest event, 0 when there is none.
func (j Journal) Last() (uint64, error) {
	names, err := j.segments()
	if err != nil || len(names) == 0 {
		return 0, err
	}
	name := names[len(names)-1]
	f, err := os.Open(filepath.Join(j.Dir, name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	next, _, err := lastSeq(f, name)
	return next - 1, err
}

// Decode gives the payload of an event, and false when it is of another type.
func Decode[P Payload](e Event) (p P, ok bool) {
	if e.Type != p.Type() {
		return p, false
	}
	return p, json.Unmarshal(e.Data, &p) == nil
}

// Field gives a field of the payload as text, such as container_id; empty when there is none.
func (e Event) Field(name string) string {
	var fields map[string]any
	if json.Unmarshal(e.Data, &fields) != nil || fields[name] == nil {
		return ""
	}
	return fmt.Sprint(fields[name])
}
