// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestParseLog(t *testing.T) {
	for in, want := range map[string]Log{
		"log:///a/log":                            {Path: "/a/log"},
		"log:///a/log?max-size=10&max-files=3":    {Path: "/a/log", MaxSize: 10, MaxFiles: 3},
		"log:///a?max-line=16384&shared=1":        {Path: "/a", MaxLine: 16384, Shared: true},
		"log:///a/with%20space%3F?max-size=10":    {Path: "/a/with space?", MaxSize: 10},
		"log:///a/../log?max-files=1&max-files=2": {Path: "/log", MaxFiles: 2},
	} {
		got, err := ParseLog(in)
		if err != nil || got != want {
			t.Errorf("%s: %+v %v", in, got, err)
		}
		if again, err := ParseLog(got.String()); err != nil || again != got {
			t.Errorf("%s became %s: %v", in, got, err)
		}
	}
	for _, in := range []string{"", "/a", "file:///a", "log://host/a", "log:a", "log:///a?max-size=x", "log:///a?max-size=-1",
		"log:///a?x=1", "log:///a?shared=2", "log:///a?max-line=99999999", "log:///a?max-files=99999", "log:///%zz"} {
		if _, err := ParseLog(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// text reads the whole log back as the two streams.
func text(t *testing.T, l Log, opt ReadOptions) (string, string) {
	t.Helper()
	r, err := l.Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out, errOut strings.Builder
	if err := r.Copy(&out, &errOut, false); err != nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String()
}

var all = ReadOptions{Tail: -1}

func TestWriteAndReadBack(t *testing.T) {
	for _, maxSize := range []int64{0, 1 << 16} {
		l := Log{Path: filepath.Join(t.TempDir(), "log"), MaxSize: maxSize, MaxFiles: 100}
		w, err := l.Create()
		if err != nil {
			t.Fatal(err)
		}
		var want [2]bytes.Buffer
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			p := make([]byte, rnd.IntN(30000))
			for i := range p {
				p[i] = "abcdefghijklmno\n"[rnd.IntN(16)]
			}
			if rnd.IntN(4) == 0 {
				p = bytes.ReplaceAll(p, []byte("\n"), nil)
			}
			s := Stream(rnd.IntN(2))
			want[s].Write(p)
			w.Write(s, p)
		}
		w.Close()
		out, errOut := text(t, l, all)
		if out != want[0].String() || errOut != want[1].String() {
			t.Fatalf("max size %d: read %d and %d bytes, want %d and %d", maxSize, len(out), len(errOut), want[0].Len(), want[1].Len())
		}
	}
}

func TestRotationKeepsToItsBounds(t *testing.T) {
	for _, files := range []int{1, 3} {
		dir := t.TempDir()
		l := Log{Path: filepath.Join(dir, "log"), MaxSize: 4096, MaxFiles: files}
		w, err := l.Create()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2000 {
			w.Write(Stdout, fmt.Appendf(nil, "line %d\n", i))
		}
		w.Close()
		entries, _ := os.ReadDir(dir)
		if len(entries) != files {
			t.Fatalf("%d files, want %d", len(entries), files)
		}
		for _, e := range entries {
			if st, _ := e.Info(); st.Size() > 4096 {
				t.Errorf("%s has %d bytes", e.Name(), st.Size())
			}
		}
		out, _ := text(t, l, all)
		if !strings.HasSuffix(out, "line 1999\n") {
			t.Errorf("the end is missing: %q", out)
		}
		first := 0
		fmt.Sscanf(out, "line %d", &first)
		if want := 2000 - first; strings.Count(out, "\n") != want {
			t.Errorf("%d lines, want %d", strings.Count(out, "\n"), want)
		}
	}
}

func TestFollowOverRotation(t *testing.T) {
	l := Log{Path: filepath.Join(t.TempDir(), "log"), MaxSize: 20000, MaxFiles: 500}
	w, err := l.Create()
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		out string
		err error
	}
	done := make(chan result)
	var readers []*Reader
	for range 3 {
		r, err := l.Open(t.Context(), ReadOptions{Tail: -1, Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, r)
		go func() {
			var out strings.Builder
			err := r.Copy(&out, io.Discard, false)
			done <- result{out.String(), errors.Join(err, r.Close())}
		}()
	}
	var want strings.Builder
	for i := range 100000 {
		fmt.Fprintf(&want, "line %d\n", i)
		w.Write(Stdout, fmt.Appendf(nil, "line %d\n", i))
	}
	for _, r := range readers {
		r.End()
	}
	for range readers {
		got := <-done
		if got.err != nil {
			t.Fatal(got.err)
		}
		if got.out != want.String() {
			t.Fatalf("read %d bytes, want %d", len(got.out), want.Len())
		}
	}
}

func TestTail(t *testing.T) {
	for _, maxSize := range []int64{0, 2000} {
		l := Log{Path: filepath.Join(t.TempDir(), "log"), MaxSize: maxSize, MaxFiles: 900}
		w, err := l.Create()
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for i := range 5000 {
			lines = append(lines, fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", i%200)))
			if i%3 == 0 {
				w.Write(Stdout, []byte(lines[i][:3]))
				w.Write(Stdout, []byte(lines[i][3:]))
				continue
			}
			w.Write(Stdout, []byte(lines[i]))
		}
		lines = append(lines, "no newline")
		w.Write(Stdout, []byte("no new"))
		w.Write(Stdout, []byte("line"))
		for _, n := range []int{0, 1, 2, 10, 1000, 4999, 5001, 6000} {
			want := strings.Join(lines[max(0, len(lines)-n):], "")
			if got, _ := text(t, l, ReadOptions{Tail: n}); got != want {
				t.Errorf("max size %d, tail %d: %d bytes, want %d", maxSize, n, len(got), len(want))
			}
		}
		w.Close()
	}
}

func TestSinceAndStamps(t *testing.T) {
	l := Log{Path: filepath.Join(t.TempDir(), "log")}
	os.WriteFile(l.Path, []byte("2026-01-02T03:04:05.1Z stdout F one\nrubbish\n2026-01-02T03:04:06Z stderr P two\n2026-01-02T03:04:07Z stderr F , still\n2026-01-02T03:04:08Z stdout F cut"), 0o600)
	r, err := l.Open(t.Context(), ReadOptions{Tail: -1, Since: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out bytes.Buffer
	if err := r.Copy(&out, &out, true); err != nil {
		t.Fatal(err)
	}
	if out.String() != "2026-01-02T03:04:06Z two, still\n" {
		t.Errorf("%q", out.String())
	}
	w, err := l.Create()
	if err != nil {
		t.Fatal(err)
	}
	w.Write(Stdout, []byte("after a crash\n"))
	w.Close()
	if out, _ := text(t, l, all); out != "one\ncut\nafter a crash\n" {
		t.Errorf("%q", out)
	}
}

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	l := Log{Path: filepath.Join(dir, "log")}
	w, err := l.Create()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	line := strings.Repeat("x", 99) + "\n"
	for range 1000 {
		w.Write(Stdout, []byte(line))
	}
	n, err := w.Dropped()
	if n == 0 || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("dropped %d, %v", n, err)
	}
	os.Remove(filepath.Join(dir, "other"))
	w.Write(Stdout, []byte("room again\n"))
	out, _ := text(t, l, all)
	if !strings.HasPrefix(out, line+line) || !strings.HasSuffix(out, "room again\n") {
		t.Errorf("%q", out)
	}
	// The reader ends the line that was cut short.
	if all, kept := 1000*len(line), len(out)-len("room again\n"); kept+int(n) != all && kept+int(n) != all+1 {
		t.Errorf("%d bytes kept and %d dropped of %d", kept, n, all)
	}
	if n2, _ := w.Dropped(); n2 != n {
		t.Errorf("dropped %d more", n2-n)
	}
}

func TestWriterDoesNotAllocate(t *testing.T) {
	l := Log{Path: filepath.Join(t.TempDir(), "log")}
	w, err := l.Create()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := bytes.Repeat([]byte("a line of some length, as programs write them\n"), 500)
	w.Write(Stdout, p)
	if n := testing.AllocsPerRun(100, func() { w.Write(Stdout, p) }); n != 0 {
		t.Errorf("%v allocations for 500 lines", n)
	}
}

func TestReaderEndsWithContext(t *testing.T) {
	l := Log{Path: filepath.Join(t.TempDir(), "log")}
	os.WriteFile(l.Path, nil, 0o600)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := l.Open(ctx, ReadOptions{Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go cancel()
	if _, err := r.Next(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := (Log{Path: "/nonexistent/log"}).Open(t.Context(), all); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestFollowEndsWhenTheLogIsRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	os.Mkdir(dir, 0o700)
	l := Log{Path: filepath.Join(dir, "log")}
	os.WriteFile(l.Path, []byte("2026-01-02T03:04:05Z stdout F one\n"), 0o600)
	r, err := l.Open(t.Context(), ReadOptions{Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	go os.RemoveAll(dir)
	if _, err := r.Next(); err != io.EOF {
		t.Fatal(err)
	}
}

func TestLongLineOfSomebodyElse(t *testing.T) {
	l := Log{Path: filepath.Join(t.TempDir(), "log")}
	long := "2026-01-02T03:04:05Z stdout F " + strings.Repeat("x", 3<<20) + "\n"
	os.WriteFile(l.Path, []byte(long+"2026-01-02T03:04:05Z stdout F two\n"), 0o600)
	if out, _ := text(t, l, all); out != "two\n" {
		t.Errorf("%d bytes", len(out))
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05.123456789Z stdout F hello world"))
	f.Add([]byte("2026-01-02T03:04:05Z stderr P:x "))
	f.Add([]byte("t stdout F"))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseRecord(line)
		if err != nil {
			return
		}
		r.Time()
		if !bytes.HasPrefix(line, r.Stamp) || !bytes.HasSuffix(line, r.Data) || len(r.Stamp)+len(r.Data) > len(line) {
			t.Errorf("%q: %q %q", line, r.Stamp, r.Data)
		}
	})
}

func FuzzReadLog(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05Z stdout F one\n2026-01-02T03:04:05Z stderr P two\nx\n"), 1)
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		l := Log{Path: filepath.Join(t.TempDir(), "log")}
		os.WriteFile(l.Path, data, 0o600)
		n = max(0, n%100)
		r, err := l.Open(t.Context(), ReadOptions{Tail: n})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		lines, open := 0, false
		for {
			rec, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if !rec.Partial {
				lines++
			}
			open = rec.Partial
		}
		if open {
			lines++
		}
		if lines > n {
			t.Errorf("%d lines, want at most %d", lines, n)
		}
	})
}

func FuzzParseLog(f *testing.F) {
	f.Add("log:///a/b%20c?max-size=10&max-files=3")
	f.Fuzz(func(t *testing.T, uri string) {
		l, err := ParseLog(uri)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Error(err)
			}
			return
		}
		if again, err := ParseLog(l.String()); err != nil || again != l {
			t.Errorf("%q became %q: %+v %v", uri, l.String(), again, err)
		}
	})
}

// Who rotates a shared log renames it and makes a new file; the writer goes on there, and before that in the old one.
func TestSharedLog(t *testing.T) {
	l := Log{Path: filepath.Join(t.TempDir(), "log"), Shared: true, MaxLine: 4}
	w, err := l.Create()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Write(Stdout, []byte("one\n"))
	old := l.Path + ".20261126"
	if err := os.Rename(l.Path, old); err != nil {
		t.Fatal(err)
	}
	w.Write(Stdout, []byte("two\n"))
	if _, err := os.Lstat(l.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the writer has made a file: %v", err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	w.Write(Stdout, []byte("three\n"))
	if out, _ := text(t, Log{Path: old}, all); out != "one\ntwo\n" {
		t.Errorf("the old file has %q", out)
	}
	if out, _ := text(t, Log{Path: l.Path}, all); out != "three\n" {
		t.Errorf("the new file has %q", out)
	}
	raw, err := os.ReadFile(l.Path)
	if err != nil || strings.Count(string(raw), " stdout P ") != 1 || strings.Count(string(raw), " stdout F ") != 1 {
		t.Errorf("a line of 5 bytes in records of 4 is %q, %v", raw, err)
	}
	if st, err := os.Stat(l.Path); err != nil || st.Mode().Perm()&0o137 != 0 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}
