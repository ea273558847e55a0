// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// TestTold: what is written to the FIFO that stands for the log of containerd's shims is in the supervisor's, up to a bound; init.pid is beside it.
// It has a reader as long as the supervisor has the task, and then is gone.
func TestTold(t *testing.T) {
	k := newTask(t, "sleep", "1000")
	k.record.IO = &taskdir.IO{}
	bundle := filepath.Join(k.dir, taskdir.Bundle)
	path := filepath.Join(bundle, taskdir.BundleLog)
	must(t, os.Mkdir(bundle, 0o700))
	must(t, unix.Mkfifo(path, 0o600))
	k.serve()
	// Not blocking: without a reader this fails.
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	must(t, err)
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	_, err = f.WriteString("a line\n")
	must(t, err)
	k.until("the line", func() bool { return k.shimLog() == "a line\n" })
	k.createAndStart(k.request())
	if b, err := os.ReadFile(filepath.Join(bundle, taskdir.BundleInit)); err != nil || string(b) != itoa(k.initPid()) {
		t.Errorf("init.pid %q, %v; init is %d", b, err, k.initPid())
	}
	much := strings.Repeat("0123456789abcde\n", 3<<20/16)
	_, err = f.WriteString(much) // the reader takes all, and keeps a part
	must(t, err)
	k.until("the bound", func() bool { return strings.Contains(k.shimLog(), "the rest is dropped") })
	if n := strings.Count(k.shimLog(), "0123456789abcde"); n < 1<<20/16-2 || n > 1<<20/16 {
		t.Errorf("%d lines are kept", n)
	}
	must(t, k.client.Kill(t.Context(), &taskapi.KillRequest{ID: k.id, Signal: uint32(unix.SIGKILL)}))
	k.wait()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the FIFO after the end: %v", err)
	}
	k.nothingLeft()
}
