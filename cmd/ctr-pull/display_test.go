// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/pull"
)

func event(name string, s pull.Status, current int64) pull.Event {
	return pull.Event{Image: "an image", Status: s, Current: current, Descriptor: ocispec.Descriptor{Digest: digest.FromString(name), Size: 1000}}
}

// No line is as wide as the terminal and no picture as high, whatever its size.
func TestPictureFits(t *testing.T) {
	var rows []pull.Event
	for i := range 50 {
		s := []pull.Status{pull.Waiting, pull.Downloading, pull.Unpacking, pull.Done, pull.Exists}[i%5]
		rows = append(rows, event(strings.Repeat("x", i), s, int64(i*20)))
	}
	rows = append(rows, pull.Event{Image: "an image", Status: pull.Resolving})
	for width := 1; width < 130; width++ {
		for _, height := range []int{1, 3, 24, 100} {
			text := picture(rows, width, height)
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
	got := row(event("a", pull.Downloading, 500), 100)
	if !strings.Contains(got, "["+strings.Repeat("=", 20)+strings.Repeat(" ", 20)+"]") || !strings.HasSuffix(got, "500B of 1kB") {
		t.Errorf("%q", got)
	}
	if got := row(event("a", pull.Downloading, 5000), 100); strings.Count(got, "=") != 40 {
		t.Errorf("more than all: %q", got)
	}
}

func TestWithDigest(t *testing.T) {
	d := digest.FromString("x")
	for _, name := range []string{"docker.io/library/a:1", "docker.io/library/a@" + d.String()} {
		got := withDigest(image.Image{Name: name, Target: ocispec.Descriptor{Digest: d}})
		if strings.Count(got, "@") != 1 || !strings.HasSuffix(got, "@"+d.String()) {
			t.Errorf("%q", got)
		}
	}
}

func TestReadLine(t *testing.T) {
	for in, want := range map[string]string{"u:p\nnext": "u:p", "u:p": "u:p", "u:p\r\n": "u:p", "\n": ""} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString(in)
		w.Close()
		if got, err := readLine(r); got != want || err != nil {
			t.Errorf("%q: %q, %v", in, got, err)
		}
		r.Close()
	}
}
