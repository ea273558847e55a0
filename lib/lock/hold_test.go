// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func isAborted(err error) bool { return errdefs.IsAborted(err) }

func held(t *testing.T, path string) bool {
	t.Helper()
	h, err := IsHeld(path)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func mustHold(t *testing.T, path string) *Held {
	t.Helper()
	h, err := Hold(path)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "live")
	if held(t, path) {
		t.Error("a missing file is held")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("asking made the file: %v", err)
	}
	p := start(t, t.TempDir(), "live", path)
	p.line(t)
	if !held(t, path) {
		t.Error("not held by a live process")
	}
	_, err := Hold(path)
	if want := fmt.Sprintf("pid %d (exe live ", p.pid()); !errdefs.IsAborted(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("second holder: %v, want %q of kind aborted", err, want)
	}
	p.end(t)
	if _, err := os.Stat(path); err != nil || held(t, path) {
		t.Errorf("after release: the file %v, held %v", err, held(t, path))
	}
	h := mustHold(t, path)
	if _, err := Hold(path); !errdefs.IsAborted(err) {
		t.Errorf("second holder in one process: %v", err)
	}
	if err := h.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
	if _, err := Hold(filepath.Join(path, "none", "live")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a missing directory: %v", err)
	}
}

func TestHoldEndsWithItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "live")
	p := start(t, t.TempDir(), "live", path)
	p.line(t)
	p.cmd.Process.Kill()
	p.cmd.Wait()
	if held(t, path) {
		t.Error("held by a dead process")
	}
	release(t, mustHold(t, path))
}

// Others who ask all the time never get into the way of who takes.
func TestIsHeldDisturbsNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "live")
	for range 3 {
		start(t, t.TempDir(), "ask", path).line(t)
	}
	for i := range 3000 {
		h, err := Hold(path)
		if err != nil {
			t.Fatalf("take %d: %v", i, err)
		}
		if i%2 == 0 {
			err = h.Release()
		} else {
			err = h.Remove()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Of many who take, release and remove, one at a time has it.
func TestHoldChurn(t *testing.T) {
	dir := t.TempDir()
	var all []*process
	for range 4 {
		all = append(all, start(t, dir, "churn-live", filepath.Join(dir, "live"), filepath.Join(dir, "inside")))
	}
	for _, p := range all {
		p.wait(t)
	}
}

// A child that inherits the file keeps the lock when its parent has ended.
func TestHoldIsInherited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "live")
	p := start(t, t.TempDir(), "pass-on", path)
	pid, err := strconv.Atoi(p.line(t))
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if _, err := p.cmd.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	if !held(t, path) {
		t.Error("not held by the child")
	}
	if _, err := Hold(path); !errdefs.IsAborted(err) {
		t.Errorf("taken beside the child: %v", err)
	}
	p.in.Close()
	ended := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(ended, 60_000); n == 1 {
			break
		} else if !errors.Is(err, unix.EINTR) {
			t.Fatalf("the child does not end: %v", err)
		}
	}
	if held(t, path) {
		t.Error("held after the child has ended")
	}
}
