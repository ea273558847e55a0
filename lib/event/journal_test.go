// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func add(t *testing.T, j Journal, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := j.Append("default", ContainerDelete{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
}

// large is a payload of about n bytes.
func large(id string, n int) Payload {
	return ContainerUpdate{ID: id, Labels: map[string]string{"x": strings.Repeat("x", n)}}
}

// read gives the ids of the events after since, and checks that their numbers have no gap.
func read(t *testing.T, j Journal, since uint64) (ids []string) {
	t.Helper()
	next := uint64(0)
	for e, err := range j.Read(t.Context(), since, false) {
		if err != nil {
			t.Fatal(err)
		}
		if next != 0 && e.Seq != next || e.Seq <= since {
			t.Fatalf("event %d follows %d, read since %d", e.Seq, next-1, since)
		}
		next = e.Seq + 1
		ids = append(ids, e.Field("id"))
	}
	return ids
}

// segment gives the path of the newest segment.
func segment(t *testing.T, j Journal) string {
	t.Helper()
	names, err := j.segments()
	if err != nil || len(names) == 0 {
		t.Fatalf("segments %v, %v", names, err)
	}
	return filepath.Join(j.Dir, names[len(names)-1])
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func last(t *testing.T, j Journal) uint64 {
	t.Helper()
	n, err := j.Last()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAppend(t *testing.T) {
	j := Journal{Dir: filepath.Join(t.TempDir(), "run", "events")}
	if ids := read(t, j, 0); ids != nil || last(t, j) != 0 {
		t.Errorf("a journal that is not there has %v, last %d", ids, last(t, j))
	}
	if err := j.Append("default"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(j.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("appending nothing: %v", err)
	}
	if err := j.Append("a", ImageCreate{Name: "x"}, ContentDelete{Digest: "sha256:0"}); err != nil {
		t.Fatal(err)
	}
	if err := j.Append("b", TaskOOM{ContainerID: "c"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for e, err := range j.Read(t.Context(), 0, false) {
		if err != nil || e.Time.IsZero() {
			t.Fatal(e, err)
		}
		got = append(got, fmt.Sprint(e.Seq, e.Namespace, " ", e.Topic, " ", e.Type, string(e.Data)))
	}
	want := []string{
		`1a /images/create containerd.services.images.v1.ImageCreate{"name":"x"}`,
		`2a /content/delete containerd.events.ContentDelete{"digest":"sha256:0"}`,
		`3b /tasks/oom containerd.events.TaskOOM{"container_id":"c"}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if last(t, j) != 3 {
		t.Errorf("last %d", last(t, j))
	}
}

func TestSince(t *testing.T) {
	j := Journal{Dir: t.TempDir()}
	add(t, j, "1", "2", "3", "4")
	for since, want := range [][]string{{"1", "2", "3", "4"}, {"2", "3", "4"}, {"3", "4"}, {"4"}, nil, nil} {
		if got := read(t, j, uint64(since)); !slices.Equal(got, want) {
			t.Errorf("since %d: %v, want %v", since, got, want)
		}
	}
	for e, err := range j.Read(t.Context(), 1, true) {
		if err != nil || e.Seq != 2 {
			t.Errorf("first is %d, %v", e.Seq, err)
		}
		break // ends although it follows
	}
}

// The rest of a killed append, which has no newline, is nothing to readers, and the next append puts its
// own in its place.
func TestTornLine(t *testing.T) {
	for name, torn := range map[string]string{
		"byte":      "{",
		"line":      `{"seq":3,"time":"2026-01-01T00:00:00Z","namespace":"default","topic":"/containers/delete","type":"containerd.events.ContainerDelete","event":{"id":"torn"}}`,
		"long":      `{"seq":3,"` + strings.Repeat("x", 100<<10),
		"very long": `{"seq":3,"` + strings.Repeat("x", 3<<20),
	} {
		t.Run(name, func(t *testing.T) {
			j := Journal{Dir: t.TempDir()}
			add(t, j, "1", "2")
			write(t, segment(t, j), torn)
			if ids := read(t, j, 0); !slices.Equal(ids, []string{"1", "2"}) || last(t, j) != 2 {
				t.Errorf("before the next append: %v, last %d", ids, last(t, j))
			}
			add(t, j, "3")
			if ids := read(t, j, 0); !slices.Equal(ids, []string{"1", "2", "3"}) || last(t, j) != 3 {
				t.Errorf("after the next append: %v, last %d", ids, last(t, j))
			}
			if data, err := os.ReadFile(segment(t, j)); err != nil || bytes.Count(data, []byte("\n")) != 3 || len(data) > 2000 {
				t.Errorf("segment of %d bytes, %v", len(data), err)
			}
		})
	}
	t.Run("first", func(t *testing.T) {
		j := Journal{Dir: t.TempDir()}
		add(t, j, "1")
		if err := os.Truncate(segment(t, j), 20); err != nil {
			t.Fatal(err)
		}
		add(t, j, "1 again")
		if ids := read(t, j, 0); !slices.Equal(ids, []string{"1 again"}) || last(t, j) != 1 {
			t.Errorf("got %v, last %d", ids, last(t, j))
		}
	})
	t.Run("new segment", func(t *testing.T) {
		j := Journal{Dir: t.TempDir()}
		add(t, j, "1", "2")
		write(t, filepath.Join(j.Dir, segmentName(3)), "") // killed after it was made
		if last(t, j) != 2 {
			t.Errorf("last %d", last(t, j))
		}
		add(t, j, "3")
		if ids := read(t, j, 0); !slices.Equal(ids, []string{"1", "2", "3"}) || filepath.Base(segment(t, j)) != segmentName(3) {
			t.Errorf("got %v in %s", ids, segment(t, j))
		}
	})
}

// A reader that follows meets the rest of a killed append while the next append replaces it.
func TestTornLineBeforeReaders(t *testing.T) {
	const n = 1500
	j := Journal{Dir: t.TempDir()}
	add(t, j, "0")
	w := make(chan error)
	go func() {
		defer close(w)
		for i := 1; i < n; i++ {
			f, err := os.OpenFile(filepath.Join(j.Dir, segmentName(1)), os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				_, err = fmt.Fprintf(f, `{"seq":%d,"tim`, i*7)
				err = errors.Join(err, f.Close())
			}
			if err = errors.Join(err, j.Append("default", ContainerDelete{ID: strconv.Itoa(i)})); err != nil {
				w <- err
			}
		}
	}()
	next := 0
	for e, err := range j.Read(t.Context(), 0, true) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq != uint64(next+1) || e.Field("id") != strconv.Itoa(next) {
			t.Fatalf("event %d of %s, want %d", e.Seq, e.Field("id"), next+1)
		}
		if next++; next == n {
			break
		}
	}
	for err := range w {
		t.Error(err)
	}
}

// Segments end at their size, the newest are kept, and what is gone shows as a gap.
func TestSegments(t *testing.T) {
	j := Journal{Dir: t.TempDir()}
	const n, size = 150, 100 << 10
	for i := 1; i <= n; i++ {
		if err := j.Append("default", large(strconv.Itoa(i), size)); err != nil {
			t.Fatal(err)
		}
	}
	names, err := j.segments()
	if err != nil || len(names) != segments {
		t.Fatalf("%d segments, %v; want %d", len(names), err, segments)
	}
	for i, name := range names {
		st, err := os.Stat(filepath.Join(j.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() > segmentSize+2*size || i < len(names)-1 && st.Size() < segmentSize {
			t.Errorf("segment %s has %d bytes", name, st.Size())
		}
	}
	oldest, err := strconv.Atoi(names[0])
	if err != nil || oldest == 1 {
		t.Fatalf("oldest segment %s, %v", names[0], err)
	}
	all := []int{0, 1, oldest + 1, n - 1, n}
	for _, name := range names {
		first, err := strconv.Atoi(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, first-2, first-1, first)
	}
	for _, since := range all {
		ids := read(t, j, uint64(since))
		first := max(oldest, since+1)
		if len(ids) != n+1-first || len(ids) > 0 && ids[0] != strconv.Itoa(first) {
			t.Errorf("since %d: %d events from %v on, want %d from %d on", since, len(ids), ids[:min(1, len(ids))], n+1-first, first)
		}
	}
	if last(t, j) != n {
		t.Errorf("last %d, want %d", last(t, j), n)
	}
}

// A payload may be longer than a segment and than what is read at once.
func TestLongLines(t *testing.T) {
	j := Journal{Dir: t.TempDir()}
	for i, size := range []int{1, 300 << 10, 3 << 20, 64 << 10, 3 << 20, 1} {
		if err := j.Append("default", large(strconv.Itoa(i), size)); err != nil {
			t.Fatal(err)
		}
	}
	if ids := read(t, j, 0); !slices.Equal(ids, []string{"0", "1", "2", "3", "4", "5"}) || last(t, j) != 6 {
		t.Errorf("got %v, last %d", ids, last(t, j))
	}
}

func TestDamagedLine(t *testing.T) {
	j := Journal{Dir: t.TempDir()}
	add(t, j, "1", "2")
	write(t, segment(t, j), "damage\n")
	var ids []string
	var failed error
	for e, err := range j.Read(t.Context(), 0, false) {
		if failed = err; err == nil {
			ids = append(ids, e.Field("id"))
		}
	}
	if !slices.Equal(ids, []string{"1", "2"}) || !errdefs.IsDataLoss(failed) {
		t.Errorf("got %v, %v", ids, failed)
	}
	if err := j.Append("default", ContainerDelete{}); !errdefs.IsDataLoss(err) {
		t.Errorf("append: %v", err)
	}
}

// Lost events leave a gap of their number, over the change of segments too, and once.
func TestLost(t *testing.T) {
	for _, empty := range []bool{false, true} {
		j := Journal{Dir: filepath.Join(t.TempDir(), "events")}
		if !empty {
			add(t, j, "1")
		} else if err := os.Mkdir(j.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		first := last(t, j)
		j.lose(3, nil)
		add(t, j, "x", "y")
		if n := last(t, j); n != first+5 {
			t.Errorf("empty %v: last %d, want %d", empty, n, first+5)
		}
		j.lose(2, nil)
		write(t, filepath.Join(j.Dir, segmentName(first+6)), "") // killed after it was made
		add(t, j, "z")
		if n := last(t, j); n != first+8 {
			t.Errorf("empty %v: last %d, want %d", empty, n, first+8)
		}
		for e, err := range j.Read(t.Context(), first+7, false) {
			if err != nil || e.Field("id") != "z" || e.Lost != 5 {
				t.Errorf("empty %v: %+v, %v", empty, e, err)
			}
		}
	}
}

// Finding a place reads little, whatever the size of the lines.
func TestSeek(t *testing.T) {
	for _, size := range []int{1, 1 << 10, 100 << 10} {
		j := Journal{Dir: t.TempDir()}
		const batch = 50
		n := uint64(0)
		for {
			var all []Payload
			for range batch {
				all = append(all, large("x", size))
			}
			if err := j.Append("default", all...); err != nil {
				t.Fatal(err)
			}
			n += batch
			if st, err := os.Stat(segment(t, j)); err != nil || st.Size() > segmentSize-128<<10 {
				break
			}
		}
		f, err := os.Open(segment(t, j))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for since := uint64(0); since <= n; since += 1 + n/17 {
			offset, err := seek(f, since)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, readSize)
			k, _ := f.ReadAt(buf, offset)
			seq, ok := parseSeq(buf[:k])
			if before := since - min(since, readSize/uint64(size)+2); !ok || seq > since+1 || seq < before {
				t.Errorf("lines of %d: since %d: begins at %d, %v", size, since, seq, ok)
			}
		}
	}
}

// Following sees what is there, then what others append as they do, and ends with its context.
func TestFollow(t *testing.T) {
	j := Journal{Dir: filepath.Join(t.TempDir(), "events")}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string)
	go func() {
		defer close(got)
		for e, err := range j.Read(ctx, 0, true) {
			if err != nil {
				t.Error(err)
			}
			got <- e.Field("id")
		}
	}()
	for i := range 20 {
		id := strconv.Itoa(i)
		add(t, j, id)
		if s := <-got; s != id {
			t.Fatalf("got %q, want %q", s, id)
		}
	}
	write(t, segment(t, j), "{torn")
	add(t, j, "x")
	if s := <-got; s != "x" {
		t.Errorf("after a torn line %q", s)
	}
	cancel()
	if s, more := <-got; more {
		t.Errorf("after its end %q", s)
	}
}

func TestFields(t *testing.T) {
	data := json.RawMessage(`{"container_id":"web","exit_status":137,"flag":true,"none":null}`)
	e := Event{Type: TaskExit{}.Type(), Data: data}
	for name, want := range map[string]string{"container_id": "web", "exit_status": "137", "flag": "true", "none": "", "other": ""} {
		if got := e.Field(name); got != want {
			t.Errorf("field %s is %q, want %q", name, got, want)
		}
	}
	if x, ok := Decode[TaskExit](e); !ok || !reflect.DeepEqual(x, TaskExit{ContainerID: "web", ExitStatus: 137}) {
		t.Errorf("decoded %+v, %v", x, ok)
	}
	if _, ok := Decode[TaskStart](e); ok {
		t.Error("an exit was decoded as a start")
	}
	if _, ok := Decode[TaskExit](Event{Type: TaskExit{}.Type(), Data: json.RawMessage(`{"exit_status":"x"}`)}); ok {
		t.Error("a damaged payload was decoded")
	}
	if got := (Event{Data: json.RawMessage(`[]`)}).Field("x"); got != "" {
		t.Errorf("field of no object %q", got)
	}
}

// A line is understood or refused; one that is understood is what it says when it is written again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"seq":7,"time":"2026-01-01T00:00:00.5Z","namespace":"default","topic":"/tasks/exit","type":"containerd.events.TaskExit","event":{"container_id":"x","exit_status":1}}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"seq":-1}`))
	f.Add([]byte(`{"seq":1,"event":null}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parse(line)
		if err != nil {
			return
		}
		e.Field("container_id")
		Decode[TaskExit](e)
		if seq, ok := parseSeq(line); ok && seq != e.Seq && bytes.Count(line, []byte("seq")) == 1 {
			t.Errorf("%q: number %d, read quickly %d", line, e.Seq, seq)
		}
		again, err := json.Marshal(e)
		if err != nil {
			if y := e.Time.Year(); y < 0 || y > 9999 {
				return
			}
			t.Fatalf("%q: %v", line, err)
		}
		if bytes.Contains(again, []byte("\n")) {
			t.Fatalf("%q is written on two lines", again)
		}
		same, err := parse(again)
		if err != nil || same.Seq != e.Seq || !same.Time.Equal(e.Time) || same.Namespace != e.Namespace || same.Topic != e.Topic || same.Type != e.Type {
			t.Errorf("%q: %+v, again %+v, %v", line, e, same, err)
		}
	})
}

// TestDiskFullInTheMiddle: of events that are appended together on a disk that becomes full, those that are written are not
// counted as lost.
func TestDiskFullInTheMiddle(t *testing.T) {
	j := Journal{Dir: t.TempDir()}
	add(t, j, "a")
	st, err := os.Stat(segment(t, j))
	if err != nil {
		t.Fatal(err)
	}
	// As large as a file may be, instead of as full as a disk.
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	limit := before
	limit.Cur = uint64(2*st.Size() + 10)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	err = j.Append("default", ContainerDelete{ID: "b"}, ContainerDelete{ID: "c"})
	if e := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, unix.EFBIG) {
		t.Fatalf("%v", err)
	}
	add(t, j, "d")
	var got []string
	for e, err := range j.Read(t.Context(), 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Seq, e.Field("id"), e.Lost))
	}
	if want := []string{"1a0", "2b0", "4d1"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestTail: a process that keeps the newest segment open appends where another has appended, where one was killed, in a new
// segment when that is full, and in a new journal when the directory was thrown away; what was lost meanwhile is told.
func TestTail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "events")
	j, other := Journal{Dir: dir, Tail: &Tail{}}, Journal{Dir: dir}
	add(t, j, "1", "2")
	add(t, other, "3")
	add(t, j, "4", "5")
	write(t, segment(t, j), `{"seq":6,"ti`)
	add(t, j, "6")
	write(t, segment(t, j), `{"seq":7,"ti`)
	add(t, other, "7")
	add(t, j, "8")
	if got := read(t, j, 0); !slices.Equal(got, []string{"1", "2", "3", "4", "5", "6", "7", "8"}) {
		t.Errorf("got %v", got)
	}
	j.lose(2, nil)
	add(t, j, "11", "12")
	for e, err := range j.Read(t.Context(), 8, false) {
		if err != nil || fmt.Sprint(e.Seq) != e.Field("id") || e.Lost != 2 {
			t.Errorf("after a loss of two: event %d of %s, lost %d, %v", e.Seq, e.Field("id"), e.Lost, err)
		}
	}
	before := segment(t, j)
	if err := j.Append("default", large("13", segmentSize/2), large("14", segmentSize/2+1)); err != nil {
		t.Fatal(err)
	}
	add(t, j, "15")
	if after := segment(t, j); after == before || filepath.Base(after) != segmentName(15) {
		t.Errorf("the segment after a full one is %s", after)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	add(t, j, "a")
	if got := read(t, j, 0); !slices.Equal(got, []string{"a"}) {
		t.Errorf("after the directory was removed: %v", got)
	}
}

// TestRecent: a follower with the Tail of the appends is given from memory what this process appended, with its payload, and reads the rest
// from the segments: what another process appended between, what is long, what no memory has any more. It has each once, in order.
func TestRecent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "events")
	j, other := Journal{Dir: dir, Tail: &Tail{}}, Journal{Dir: dir}
	id, read := 0, 0
	next := func(j Journal, size int) {
		t.Helper()
		id++
		if err := j.Append("default", large(fmt.Sprint(id), size)); err != nil {
			t.Fatal(err)
		}
	}
	r := reader{journal: j, follow: true}
	defer r.close()
	// drain tells of each event that is new whether it came from memory.
	drain := func() (recent []bool) {
		t.Helper()
		_, err := r.drain(func(e Event, err error) bool {
			if read++; err != nil || e.Field("id") != fmt.Sprint(read) || e.Seq != uint64(read) {
				t.Fatalf("event %d of %s, %v, want %d", e.Seq, e.Field("id"), err, read)
			}
			recent = append(recent, e.Payload != nil)
			return true
		})
		if err != nil || read != id {
			t.Fatalf("%d of %d events, %v", read, id, err)
		}
		return recent
	}
	next(other, 1)
	drain()
	for range 3 {
		next(j, 1)
	}
	if got := drain(); !slices.Equal(got, []bool{true, true, true}) {
		t.Errorf("the events of this process: %v", got)
	}
	next(j, 1)
	next(other, 1)
	next(j, 1)
	if got := drain(); got[1] {
		t.Errorf("with one of another process between: %v", got)
	}
	next(j, maxRecentLine)
	if got := drain(); !slices.Equal(got, []bool{false}) {
		t.Errorf("a long one: %v", got)
	}
	for range 2 * maxRecent {
		next(j, 1)
	}
	drain()
	next(j, segmentSize)
	for range 2 {
		next(j, 1)
	}
	drain()
	next(j, 1)
	if got := drain(); !slices.Equal(got, []bool{true}) {
		t.Errorf("in a new segment: %v", got)
	}
}
