// SPDX-License-Identifier: Apache-2.0

package task

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/taskdir"
)

// TestInfoOfATalker: of a shim that tells more of itself than it may, no more is kept than that.
func TestInfoOfATalker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "containerd-shim-talker-v1")
	for text, want := range map[string]string{
		"exec yes": "more than",
		"yes x | head -c 100000 >&2; echo why >&2; exit 3": "status 3",
		"printf info": "",
	} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := RuntimeInfo(t.Context(), path, nil)
		switch {
		case want == "more than":
			if !errdefs.IsResourceExhausted(err) || len(got) > 0 {
				t.Errorf("%s: %d bytes, %v", text, len(got), err)
			}
		case want != "":
			if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 2000 {
				t.Errorf("%s: %v", text, err)
			}
		case text == "printf info":
			if err != nil || string(got) != "info" {
				t.Errorf("%q, %v", got, err)
			}
		}
	}
}

// TestExecWithoutID: what a shim would take for the task is no exec.
func TestExecWithoutID(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	c := found(t, d, "c")
	reserved(t, c, StartOptions{})()
	write(t, c, taskdir.End, taskdir.Exit{Status: 3, ExitedAt: time.Now()})
	kept := filepath.Join(c.execDir("e"), taskdir.End)
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DeleteExec(t.Context(), ""); !errdefs.IsNotFound(err) {
		t.Errorf("DeleteExec: %v", err)
	}
	if _, err := os.Lstat(kept); err != nil {
		t.Errorf("the execs are gone: %v", err)
	}
	if _, err := c.StartExec(t.Context(), ""); !errdefs.IsNotFound(err) {
		t.Errorf("StartExec: %v", err)
	}
}

// TestImpossibleTime: an exit at a time that cannot be written down is recorded all the same.
func TestImpossibleTime(t *testing.T) {
	for _, at := range []time.Time{{}, time.Unix(math.MaxInt64/2, 0), time.Unix(math.MinInt64/2, 0), time.Unix(253402300800, 0)} {
		dir := t.TempDir()
		if err := taskdir.WriteExit(dir, told(7, at)); err != nil {
			t.Errorf("%d: %v", at.Unix(), err)
		}
	}
	if at := time.Unix(1, 2).UTC(); told(7, at).ExitedAt != at {
		t.Error("a time is changed")
	}
}
