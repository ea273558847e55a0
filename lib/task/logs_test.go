// SPDX-License-Identifier: Apache-2.0

package task

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/taskdir"
)

// TestFollowFails: whoever follows a log of which nobody can say when it ends is told that, and not that it has ended.
func TestFollowFails(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	c := found(t, d, "c")
	defer reserved(t, c, StartOptions{})()
	self, err := taskdir.ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	write(t, c, taskdir.Init, self)
	write(t, c, taskdir.Begun, taskdir.Started{At: time.Now()})
	damaged := filepath.Join(d.Journal().Dir, "00000000000000009999")
	for path, text := range map[string]string{c.Log(): "", damaged: "no event\n"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := found(t, d, "c").Logs(t.Context(), LogOptions{Follow: true, Tail: -1, Stdout: io.Discard, Stderr: io.Discard}); !errdefs.IsDataLoss(err) {
		t.Errorf("%v", err)
	}
}

// TestGraceIsKept: that a task cannot be waited for does not end its grace, after which it would be killed.
func TestGraceIsKept(t *testing.T) {
	d := openDir(t)
	recorded(t, d, "c", false)
	c := found(t, d, "c")
	defer reserved(t, c, StartOptions{})()
	v, err := taskdir.Look(c.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir(), taskdir.End), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, grace := range []time.Duration{time.Hour, -1} {
		if ended, err := c.awaitGrace(t.Context(), v, grace); ended || err == nil {
			t.Errorf("grace %s: %v, %v", grace, ended, err)
		}
	}
}
