// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/progress"
)

func event(name string, s progress.Status, current int64) progress.Event {
	return progress.Event{Image: "an image", Status: s, Current: current, Descriptor: ocispec.Descriptor{Digest: digest.FromString(name), Size: 1000}}
}

// No line is as wide as the terminal and no picture as high, whatever its size.
func TestPictureFits(t *testing.T) {
	var rows []progress.Event
	for i := range 50 {
		s := []progress.Status{progress.Waiting, progress.Downloading, progress.Unpacking, progress.Done, progress.Exists}[i%5]
		rows = append(rows, event(strings.Repeat("x", i), s, int64(i*20)))
	}
	rows = append(rows, progress.Event{Image: "an image", Status: progress.Resolving})
	for width := 1; width < 130; width++ {
		for _, height := range []int{1, 3, 24, 100} {
			var tl tally
			for _, r := range rows {
				tl.add(r)
			}
			text := picture("an image", &tl, time.Now(), width, height)
			if len(text) > max(1, height-2) {
				t.Errorf("%d lines in %d", len(text), height)
			}
			for _, l := range text {
				if len(l) >= width {
					t.Errorf("%d columns in %d: %q", len(l), width, l)
				}
			}
		}
	}
}

func TestRow(t *testing.T) {
	got := row(event("a", progress.Downloading, 500), 100)
	if !strings.Contains(got, "["+strings.Repeat("=", 20)+strings.Repeat(" ", 20)+"]") || !strings.HasSuffix(got, "500B of 1kB") {
		t.Errorf("%q", got)
	}
	if got := row(event("a", progress.Downloading, 5000), 100); strings.Count(got, "=") != 40 {
		t.Errorf("more than all: %q", got)
	}
}

// What is told of all transfers together, and in the end.
func TestTally(t *testing.T) {
	now := time.Now()
	tl := tally{began: now.Add(-2 * time.Second)}
	tl.add(progress.Event{Image: "an image", Status: progress.Resolving})
	if got := tl.total(now); got != "" {
		t.Errorf("nothing is known: %q", got)
	}
	tl.add(event("a", progress.Waiting, 0))
	tl.add(event("b", progress.Downloading, 500)) // 500 were there before
	tl.add(event("c", progress.Exists, 1000))
	if changed := tl.add(event("b", progress.Downloading, 900)); changed {
		t.Error("more bytes are no other status")
	}
	if got := tl.total(now); got != "900B of 2kB, 200B/s, 5.5s left" {
		t.Errorf("total %q", got)
	}
	waits := event("a", progress.Waiting, 0)
	waits.PID = 77
	if changed := tl.add(waits); !changed || statusText(waits) != "waiting for process 77" {
		t.Errorf("%v, %q", changed, statusText(waits))
	}
	tl.add(event("b", progress.Done, 1000))
	tl.add(event("a", progress.Mounted, 1000))
	if got := tl.recap("pushed", "x", now); got != "pushed x: 500B in 2s, 250B/s; 1 there already, 1 from another repository" {
		t.Errorf("recap %q", got)
	}
	// An upload that begins anew has sent what it sent, and has less than before.
	tl.add(event("d", progress.Uploading, 0))
	tl.add(event("d", progress.Uploading, 800))
	tl.add(event("d", progress.Uploading, 100))
	if have, all := tl.amounts(); have != 1100 || all != 2000 || tl.moved != 1300 {
		t.Errorf("%d of %d, %d moved", have, all, tl.moved)
	}
}

// A line of any origin goes above what is drawn, in one write, and leaves it whole.
func TestLinesAboveBars(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stderr
	os.Stderr = w
	draw([]string{"title", "row"})
	Say("a warning")
	Warn(Hint(errors.New("wrong"), "do right"))
	draw([]string{"title"})
	draw(nil)
	draw(nil)
	os.Stderr = old
	w.Close()
	data, err := io.ReadAll(r)
	name := current.name()
	up := func(n int) string { return fmt.Sprintf("\x1b[%dA\r\x1b[J", n) }
	want := "title\nrow\n" +
		up(2) + name + ": a warning\ntitle\nrow\n" +
		up(2) + name + ": wrong\ntitle\nrow\n" +
		up(2) + "hint: do right\ntitle\nrow\n" +
		up(2) + "title\n" + up(1)
	if err != nil || string(data) != want {
		t.Errorf("%q, want %q; %v", data, want, err)
	}
}

// A dumb terminal and --progress=plain get lines, and where stderr is no terminal nothing is said of a short
// transfer.
func TestProgressLines(t *testing.T) {
	for how, want := range map[string]string{
		"plain": "NAME: an image: resolving\nNAME: an image: ca978112ca1b downloading, 1kB\nNAME: an image: ca978112ca1b done, 1kB\nNAME: pulled an image: 1kB in 0s\n",
		"auto":  "", "none": "",
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		old := os.Stderr
		os.Stderr = w
		p, err := NewProgress(how, "pulled")
		if err == nil {
			p.Begin("typed")
			p.Event(progress.Event{Image: "an image", Status: progress.Resolving})
			p.Event(event("a", progress.Downloading, 0))
			p.Event(event("a", progress.Downloading, 10))
			p.Event(event("a", progress.Done, 1000))
			p.End(nil)
		}
		os.Stderr = old
		w.Close()
		data, _ := io.ReadAll(r)
		want = strings.ReplaceAll(want, "NAME", current.name())
		if got := regexp.MustCompile(` in [0-9.a-zµ]+\n`).ReplaceAllString(string(data), " in 0s\n"); err != nil || got != want {
			t.Errorf("%s: %q, want %q; %v", how, got, want, err)
		}
	}
	if _, err := NewProgress("loud", "pulled"); err == nil {
		t.Error("loud is accepted")
	}
}
