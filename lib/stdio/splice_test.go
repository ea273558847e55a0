// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"testing"
)

func pipes(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// Everything arrives, also when the reader is slow and both pipes are full, and then the end.
func TestSplice(t *testing.T) {
	from, in := pipes(t)
	out, to := pipes(t)
	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(rand.Int())
	}
	go func() {
		in.Write(want)
		in.Close()
	}()
	go func() {
		Splice(to, from)
		to.Close()
	}()
	got, err := io.ReadAll(out)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v; want %d the same", len(got), err, len(want))
	}
}

// It ends when nobody reads, and when either file is closed.
func TestSpliceEnds(t *testing.T) {
	for _, end := range map[string]func(from, in, out, to *os.File){
		"the reader goes":      func(_, in, out, _ *os.File) { out.Close(); in.Write([]byte("x")) },
		"the source is closed": func(from, _, _, _ *os.File) { from.Close() },
		"the pipe is full and its reader goes": func(_, in, out, to *os.File) {
			in.Write(make([]byte, spliceSize))
			in.Write(make([]byte, spliceSize))
			out.Close()
		},
	} {
		from, in := pipes(t)
		out, to := pipes(t)
		done := make(chan struct{})
		go func() {
			Splice(to, from)
			close(done)
		}()
		end(from, in, out, to)
		<-done
	}
}
