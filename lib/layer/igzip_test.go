// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// again is a source that knows its length and can be read once more.
type again struct {
	io.Reader
	data []byte
}

func (a again) Size() int64 { return int64(len(a.data)) }

func (a again) Again() io.Reader { return bytes.NewReader(a.data) }

// noiseOf gives bytes that do not compress.
func noiseOf(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	data := make([]byte, n)
	r.Read(data)
	return data
}

// script is a program that anybody may run.
func script(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	os.Chmod(filepath.Dir(dir), 0o755)
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// Whatever the program in igzip's place does, the bytes and errors are those of the decompressor here, unless it gives other bytes.
func TestForeign(t *testing.T) {
	data := noiseOf(3 << 20)
	whole := gz(t, data)
	cut := whole[:len(whole)-100]
	wrong := bytes.Clone(whole)
	wrong[len(wrong)-6] ^= 1 // of the checksum
	broken := errors.New("broken")
	real := igzip()
	if real == "" {
		t.Error("igzip is not installed")
	}
	for name, c := range map[string]struct {
		program string
		stream  []byte
		source  error // ends the stream, in place of io.EOF
		want    error
	}{
		"whole":                 {real, whole, nil, nil},
		"members":               {real, append(gz(t, data[:1<<20]), gz(t, data[1<<20:])...), nil, nil},
		"padded":                {real, append(bytes.Clone(whole), make([]byte, 1000)...), nil, nil},
		"cut off":               {real, cut, nil, io.ErrUnexpectedEOF},
		"wrong checksum":        {real, wrong, nil, gzip.ErrChecksum},
		"the source breaks":     {real, cut, broken, broken},
		"fails at once":         {script(t, "exit 1"), whole, nil, nil},
		"reads nothing":         {script(t, "sleep 0.2; exit 1"), whole, nil, nil},
		"gives half":            {script(t, "gzip -dc | head -c 1000000; exit 3"), whole, nil, nil},
		"is killed":             {script(t, "gzip -dc | head -c 1000000; kill -9 $$"), whole, nil, nil},
		"gives half of the cut": {script(t, "gzip -dc | head -c 1000000; exit 3"), cut, nil, io.ErrUnexpectedEOF},
		"gives too much":        {script(t, "gzip -dc; head -c 99 /dev/zero; exit 3"), whole, nil, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			var source io.Reader = bytes.NewReader(c.stream)
			if c.source != nil {
				source = io.MultiReader(source, failing{c.source})
			}
			f := startForeign(c.program, source, again{data: c.stream}.Again)
			if f == nil {
				t.Fatal("not started")
			}
			defer f.Close()
			got, err := io.ReadAll(&decoder{f, f.Close})
			if c.want == nil && err != nil || !errors.Is(fmt.Errorf("%w", err), c.want) && !strings.Contains(fmt.Sprint(err), fmt.Sprint(c.want)) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if err == nil && !bytes.Equal(got, data) {
				t.Errorf("%d bytes, not the %d that were compressed", len(got), len(data))
			}
			if err == nil {
				if n, _ := source.Read(make([]byte, 1)); n != 0 {
					t.Error("the source was not read to its end")
				}
			}
		})
	}
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

// Only what is long and can be read again is given to the program, and only gzip.
func TestForeignOf(t *testing.T) {
	data := noiseOf(2 << 20)
	long, short := gz(t, data), gz(t, data[:1000])
	for name, c := range map[string]struct {
		r    io.Reader
		want bool
	}{
		"long":               {again{bytes.NewReader(long), long}, true},
		"short":              {again{bytes.NewReader(short), short}, false},
		"cannot be repeated": {bytes.NewReader(long), false},
		"not compressed":     {again{bytes.NewReader(data), data}, false},
	} {
		r, err := Decompress(c.r, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, got := r.(*decoder).Reader.(*foreign); got != c.want {
			t.Errorf("%s: another program: %t", name, got)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.Close()
	}
}

// A stream that is closed early leaves no process and no goroutine, whatever the program does.
func TestForeignClosed(t *testing.T) {
	long := gz(t, noiseOf(8<<20))
	before := runtime.NumGoroutine()
	for range 10 {
		for _, program := range []string{igzip(), script(t, "exec sleep 1000"), script(t, "exec cat /dev/zero"), script(t, "exec cat >/dev/null")} {
			f := startForeign(program, bytes.NewReader(long), again{data: long}.Again)
			if program == igzip() {
				io.ReadFull(f, make([]byte, 1000))
			}
			pid := f.cmd.Process.Pid
			f.Close()
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
				t.Errorf("process %d is still there", pid)
			}
		}
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, before %d", runtime.NumGoroutine(), before)
}
