// SPDX-License-Identifier: Apache-2.0

package ask

import (
	"io"
	"os"
	"strings"
	"testing"
)

func TestRequestAndResult(t *testing.T) {
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := Send(ours, Request{File: "p"}, w, w, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var q Request
	files, err := Receive(theirs, &q)
	if err != nil || len(files) != 3 || q.File != "p" {
		t.Fatal(q, files, err)
	}
	files[2].WriteString("x")
	for _, f := range files {
		f.Close()
	}
	if b, err := io.ReadAll(r); string(b) != "x" || err != nil {
		t.Fatalf("%q %v", b, err)
	}
	if err := Send(theirs, Result{Error: strings.Repeat("x", 1<<20), Kind: NotFound}); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	var res Result
	if _, err := Receive(ours, &res); err != nil || res.Kind != NotFound || len(res.Error) != maxText {
		t.Fatal(res.Kind, err)
	}
	if _, err := Receive(ours, &res); err != io.EOF {
		t.Fatal(err)
	}
	if err := Send(ours, res); err == nil {
		t.Fatal("sent to nobody")
	}
}
