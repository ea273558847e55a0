// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/smallfile"
)

const (
	maxWait  = 10 * time.Second      // without Patience
	turnWait = 20 * time.Millisecond // in Turn, before the holder is looked at
	minWait  = time.Millisecond      // when the patience is at its end

	// How long to wait for a holder that is stopped: it may be continued at once, as after a job-control stop.
	stoppedWait = 250 * time.Millisecond
)

// Patience is how long the appends that share it wait for a lock that is not had, all together: what one
// has waited in vain is not waited again by the next. An append that has had the lock renews it.
type Patience struct {
	Total time.Duration
	// Lost, when set, is told of events that could not be appended, once.
	Lost func(error)

	mu    sync.Mutex
	spent time.Duration
	told  sync.Once
}

// left is how long the next append may wait.
func (p *Patience) left() time.Duration {
	if p == nil {
		return maxWait
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.Total-p.spent, minWait)
}

// waited notes a wait.
func (p *Patience) waited(took time.Duration, got bool) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spent += took; got {
		p.spent = 0
	}
}

// end lets nobody wait until an append has had the lock.
func (p *Patience) end() {
	if p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.spent = p.Total
	}
}

// An Entry is an event that is to be appended.
type Entry struct {
	Namespace string
	Payload   Payload
	Time      time.Time // when it happened; zero: now
}

// A Turn is a place in the order of appends. It must be ended by Append.
type Turn struct {
	journal Journal
	held    *lock.Lock // nil: the turn has not come
	began   time.Time
	before  string // the holder that was in the way last
}

// Turn takes the next place. A writer takes it before it lets others commit, so that the journal has the
// events of commits in the order of the commits. When the holder of the journal's lock is stopped, Turn
// gives up after twenty milliseconds and leaves it to Append, so that the writer holds up no other.
func (j Journal) Turn() *Turn {
	t := &Turn{journal: j, began: time.Now()}
	err := t.take(turnWait)
	t.before = holder(err)
	if err != nil && !heldByStopped(err) {
		_ = t.take(maxWait) // Append tries again
	}
	return t
}

// heldByStopped tells whether a wait was in vain because a holder is stopped.
func heldByStopped(err error) bool {
	var busy *lock.BusyError
	return errors.As(err, &busy) && slices.ContainsFunc(busy.Owners, isStopped)
}

// isStopped tells whether a process is stopped, by a signal or a debugger: see proc_pid_stat(5).
func isStopped(o lock.Owner) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", o.PID))
	state := stat[bytes.LastIndexByte(stat, ')')+1:]
	return err == nil && (bytes.HasPrefix(state, []byte(" T")) || bytes.HasPrefix(state, []byte(" t")))
}

// holder tells two holders of a lock apart. It is empty when nobody held it at the end of a wait.
func holder(err error) string {
	var busy *lock.BusyError
	if !errors.As(err, &busy) || len(busy.Owners) == 0 {
		return ""
	}
	return fmt.Sprint(busy.Owners[0].PID, busy.Owners[0].Since)
}

// await waits for the turn until the journal's patience is at its end. For a stopped holder that is soon.
// While the lock passes from hand to hand, on a busy host, the patience is renewed, up to ten seconds.
func (t *Turn) await() error {
	p := t.journal.Patience
	for {
		err := t.take(stoppedWait)
		if !errdefs.IsAborted(err) {
			return err
		}
		if heldByStopped(err) {
			p.end()
			return err
		}
		now := holder(err)
		moved := now == "" || now != t.before
		if time.Since(t.began) > maxWait || !moved && p.left() <= minWait {
			return err
		}
		if moved {
			p.waited(0, true)
		}
		t.before = now
	}
}

// take tries to get the journal's lock for some time, but not longer than the patience lasts.
func (t *Turn) take(wait time.Duration) (err error) {
	start := time.Now()
	wait = min(wait, t.journal.Patience.left())
	t.held, err = lock.Dir{Path: t.journal.Dir, Wait: wait}.Acquire(context.Background(), nil, lock.Database, "journal", lock.Exclusive)
	t.journal.Patience.waited(time.Since(start), err == nil)
	return err
}

// Append adds the payloads to the journal in this order. See [Turn.Append].
func (j Journal) Append(ns string, payloads ...Payload) error {
	if len(payloads) == 0 {
		return nil
	}
	entries := make([]Entry, len(payloads))
	for i, p := range payloads {
		entries[i] = Entry{Namespace: ns, Payload: p}
	}
	return j.Turn().Append(entries...)
}

// Append adds the entries to the journal in this order, numbered without a gap, and ends the turn. A turn
// that has not come is waited for as long as the journal's patience lasts. Entries that cannot be added are
// lost: they are counted, and the next event that is added says so.
func (t *Turn) Append(entries ...Entry) (err error) {
	j, added := t.journal, 0
	defer func() {
		if t.held != nil {
			err = errors.Join(err, t.held.Release())
		}
		if n := len(entries) - added; err != nil && n > 0 {
			err = fmt.Errorf("event journal: events are lost (%d): %w", n, err)
			j.lose(n, err)
		}
	}()
	if len(entries) == 0 {
		return nil
	}
	if t.held == nil {
		if err := t.await(); err != nil {
			return err
		}
	}
	e, err := j.tail()
	if err != nil {
		return err
	}
	lines, seen, err := format(entries, e)
	if err == nil {
		var n int
		n, err = e.file.Write(lines)
		added = bytes.Count(lines[:n], []byte("\n")) // of a disk that became full, the rest is lost
	}
	if err == nil && j.Tail.keep(e, seen) {
		return nil
	}
	return errors.Join(err, j.Tail.close(e))
}

// format makes the lines of entries, which begin at an end, and tells of each what a reader will see there.
func format(entries []Entry, at end) (lines []byte, seen []line, err error) {
	for i, entry := range entries {
		e, err := entry.event(at.next+uint64(i), at.lost)
		var text []byte
		if err == nil {
			text, err = json.Marshal(e)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("event %s: %w", entry.Payload.Topic(), err)
		}
		begin := at.size + int64(len(lines))
		lines = append(append(lines, text...), '\n')
		seen = append(seen, line{e, begin, at.size + int64(len(lines))})
	}
	return lines, seen, nil
}

// event is what the journal has of an entry.
func (e Entry) event(seq, lost uint64) (Event, error) {
	data, err := json.Marshal(e.Payload)
	at := e.Time
	if at.IsZero() {
		at = time.Now()
	}
	return Event{Seq: seq, Time: at.UTC().Round(0), Namespace: e.Namespace, Topic: e.Payload.Topic(), Type: e.Payload.Type(), Data: data, Lost: lost,
		Payload: e.Payload}, err
}

// lostName is a file that has a byte for each event that was lost. It only grows, so that nobody needs a
// lock to add to it.
const lostName = "lost"

// lose counts events that are lost, as far as that can be written, and tells of them.
func (j Journal) lose(n int, err error) {
	if f, err := os.OpenFile(filepath.Join(j.Dir, lostName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
		_, _ = f.Write(bytes.Repeat([]byte{'.'}, n)) // where there is no room even for this, the caller is told
		f.Close()
	}
	if p := j.Patience; p != nil && p.Lost != nil {
		p.told.Do(func() { p.Lost(err) })
	}
}

func (j Journal) lost() uint64 {
	st, err := os.Stat(filepath.Join(j.Dir, lostName))
	if err != nil {
		return 0
	}
	return uint64(st.Size())
}

// end is where the next event goes.
type end struct {
	file *os.File
	size int64  // of the file, which ends in a whole line
	next uint64 // number of that event
	lost uint64 // how many were lost before it
}

// Tail keeps the newest segment open between the appends of a process, until Close. It knows how that ends for as long as no other process
// appends, which is a whole line longer then, and never shorter. Readers that have the same Tail are given the newest events of this process
// from memory.
type Tail struct {
	mu     sync.Mutex
	at     end    // without a file: not known
	ino    uint64 // of the segment; 0: none has stayed open
	recent []line // of that segment, newest last
}

// line is an event that this process appended, and where its line begins and ends.
type line struct {
	Event
	begin, end int64
}

// Bounds on what a Tail has in memory.
const (
	maxRecent     = 64
	maxRecentLine = 4 << 10 // bytes; a longer one is read from its segment
)

// keep notes the end after an append of lines, and tells whether the file stays open. The journal's lock is held. A nil Tail keeps nothing.
func (t *Tail) keep(e end, lines []line) bool {
	if t == nil {
		return false
	}
	e.size = lines[len(lines)-1].end
	e.next += uint64(len(lines))
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at = e; t.ino == 0 {
		t.ino = inode(e.file)
	}
	for _, l := range lines {
		if l.end-l.begin > maxRecentLine {
			continue
		}
		if len(t.recent) == maxRecent {
			t.recent = append(make([]line, 0, maxRecent), t.recent[maxRecent/2:]...)
		}
		t.recent = append(t.recent, l)
	}
	return true
}

// inode is the inode number of an open file, 0 if it cannot be told. No other file has it as long as this one is open.
func inode(f *os.File) uint64 {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return 0
	}
	return st.Ino
}

// from gives the events that this process appended from that place of a segment on, one after the other.
func (t *Tail) from(ino uint64, place int64) []line {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i, ok := slices.BinarySearchFunc(t.recent, place, func(l line, place int64) int { return cmp.Compare(l.begin, place) })
	if !ok || ino == 0 || t.ino != ino {
		return nil
	}
	some := t.recent[i : i+1 : len(t.recent)]
	for _, next := range t.recent[i+1:] {
		if next.begin != some[len(some)-1].end {
			break
		}
		some = some[:len(some)+1]
	}
	return some
}

// take gives the end that was kept, if it is still that. What it gives is kept no more.
func (t *Tail) take() (e end, ok bool) {
	if t == nil {
		return end{}, false
	}
	t.mu.Lock()
	e, t.at = t.at, end{}
	t.mu.Unlock()
	if e.file == nil {
		return end{}, false
	}
	var st unix.Stat_t
	// One that is full has a successor, or gets one. One that has no name any more was thrown away.
	if err := unix.Fstat(int(e.file.Fd()), &st); err != nil || st.Nlink == 0 || st.Size != e.size || e.size >= segmentSize {
		t.close(e)
		return end{}, false
	}
	return e, true
}

// close closes a segment that is not kept, or was taken. Its inode number may be another's soon.
func (t *Tail) close(e end) error {
	if t != nil {
		t.mu.Lock()
		t.ino, t.recent = 0, nil
		t.mu.Unlock()
	}
	return e.file.Close()
}

// Close lets the segment go, until the next append.
func (t *Tail) Close() {
	if e, ok := t.take(); ok {
		t.close(e)
	}
}

// tail opens the segment to append to, with what a killed append left cut off, and tells the next
// sequence number and how many events were lost so far. The numbers of lost events are left out.
func (j Journal) tail() (end, error) {
	lost := j.lost()
	if e, ok := j.Tail.take(); ok {
		e.next, e.lost = e.next+max(lost, e.lost)-e.lost, lost
		return e, nil
	}
	names, err := j.segments()
	if err != nil {
		return end{}, err
	}
	if len(names) == 0 {
		f, err := j.create(1 + lost)
		return end{file: f, next: 1 + lost, lost: lost}, err
	}
	last := names[len(names)-1]
	f, err := smallfile.OpenFile(filepath.Join(j.Dir, last), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return end{}, err
	}
	prev, size, err := lastEvent(f, last)
	if err == nil {
		err = cut(f, size)
	}
	if err == nil && size == 0 {
		prev, err = j.lastBefore(names)
	}
	next := prev.Seq + 1
	if lost > prev.Lost {
		next += lost - prev.Lost
	}
	if err == nil && size < segmentSize {
		return end{file: f, size: size, next: next, lost: lost}, nil
	}
	f.Close()
	if err != nil {
		return end{}, err
	}
	for ; len(names) >= segments; names = names[1:] {
		os.Remove(filepath.Join(j.Dir, names[0]))
	}
	f, err = j.create(next)
	return end{file: f, next: next, lost: lost}, err
}

func (j Journal) create(seq uint64) (*os.File, error) {
	return smallfile.OpenFile(filepath.Join(j.Dir, segmentName(seq)), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
}

// cut removes the rest of a killed append, which is all that is beyond the last newline.
func cut(f *os.File, size int64) error {
	st, err := f.Stat()
	if err != nil || st.Size() == size {
		return err
	}
	return f.Truncate(size)
}

// lastBefore gives the last event of the segments before the last one. Where there are none, that
// segment's name says how far they went.
func (j Journal) lastBefore(names []string) (Event, error) {
	for i := len(names) - 2; i >= 0; i-- {
		f, err := smallfile.OpenFile(filepath.Join(j.Dir, names[i]), os.O_RDONLY, 0)
		if err != nil {
			return Event{}, err
		}
		e, size, err := lastEvent(f, names[i])
		f.Close()
		if size > 0 || err != nil {
			return e, err
		}
	}
	first, err := strconv.ParseUint(names[len(names)-1], 10, 64)
	if err != nil || first == 0 {
		return Event{}, fmt.Errorf("segment %s: %w", names[len(names)-1], errdefs.ErrDataLoss)
	}
	return Event{Seq: first - 1, Lost: j.lost()}, nil
}

// lastEvent reads the last whole line of a segment, and tells where that ends: at 0 when there is none.
func lastEvent(f *os.File, name string) (e Event, size int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return e, 0, err
	}
	for chunk := int64(4 << 10); ; chunk *= 16 {
		start := max(0, st.Size()-chunk)
		buf := make([]byte, st.Size()-start)
		if n, err := f.ReadAt(buf, start); err == io.EOF {
			buf = buf[:n] // cut off by an append meanwhile
		} else if err != nil {
			return e, 0, err
		}
		end := bytes.LastIndexByte(buf, '\n') + 1
		begin := bytes.LastIndexByte(buf[:max(0, end-1)], '\n') + 1
		if (end == 0 || begin == 0) && start > 0 {
			continue
		}
		if end == 0 {
			return e, 0, nil
		}
		if e, err = parse(buf[begin:end]); err != nil {
			return e, 0, fmt.Errorf("segment %s ends in a damaged line: %w: %w", name, err, errdefs.ErrDataLoss)
		}
		return e, start + int64(end), nil
	}
}

// Last is the number of the newest event, 0 when there is none.
func (j Journal) Last() (uint64, error) {
	names, err := j.segments()
	if err != nil || len(names) == 0 {
		return 0, err
	}
	name := names[len(names)-1]
	f, err := smallfile.OpenFile(filepath.Join(j.Dir, name), os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	e, size, err := lastEvent(f, name)
	if err == nil && size == 0 {
		e, err = j.lastBefore(names)
	}
	return e.Seq, err
}
