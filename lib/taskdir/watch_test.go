// SPDX-License-Identifier: Apache-2.0

package taskdir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ctrd.dev/ctrd/lib/taskdir"
)

// A directory that is made anew while the kernel drops events, that of its removal too, is watched again.
func TestWatchOverflow(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Skip(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || most > 1<<20 {
		t.Skip("so many events are not made: ", most, err)
	}
	dir, busy := filepath.Join(t.TempDir(), "dir"), t.TempDir()
	try := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	try(os.Mkdir(dir, 0o700))
	var w taskdir.Watch
	defer w.Close()
	first, _ := w.Number(dir)
	w.Number(busy)
	for range most/2 + 1 { // two events each
		try(os.Mkdir(filepath.Join(busy, "d"), 0o700), os.Remove(filepath.Join(busy, "d")))
	}
	try(os.Remove(dir), os.Mkdir(dir, 0o700))
	w.Update()
	before, keep := w.Number(dir)
	if before == 0 || before == first || keep {
		t.Errorf("of a directory that was made anew: %d, then %d, to be kept: %v", first, before, keep)
	}
	try(os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	w.Update()
	if after, _ := w.Number(dir); after == before {
		t.Errorf("a change in it leaves its number %d", after)
	}
}
