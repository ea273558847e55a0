// SPDX-License-Identifier: Apache-2.0

package cli

import (
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
