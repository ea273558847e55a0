// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// OOMKills counts the processes of the cgroup and below it that the kernel killed for want of memory,
// within its limit or that of a cgroup above. A cgroup that exists in no hierarchy is
// errdefs.ErrNotFound; without a memory controller it is 0.
func OOMKills(path string) (uint64, error) {
	t, err := open(path)
	if err != nil {
		return 0, err
	}
	if !t.exists(path) {
		return 0, fmt.Errorf("count out-of-memory kills of cgroup %q: %w", path, errdefs.ErrNotFound)
	}
	n, err := t.oomKills(path)
	if err != nil {
		return 0, fmt.Errorf("count out-of-memory kills of cgroup %q: %w", path, err)
	}
	return n, nil
}

func (t tree) oomKills(path string) (uint64, error) {
	dir := t.v1("memory", path)
	if dir == "" {
		text, err := read(t.v2(path), "memory.events")
		return keyed(text, "oom_kill"), err
	}
	// v1 counts a kill at the victim's own cgroup only, v2 at each one above too.
	var sum uint64
	err := walk(dir, func(dir string) error {
		text, err := read(dir, "memory.oom_control")
		sum += keyed(text, "oom_kill")
		return err
	})
	return sum, err
}

// OOMWatch tells of a cgroup that somebody else removes whether memory was short in it: systemd removes a scope's with its
// last process, and the kernel's count goes with it.
type OOMWatch struct {
	t      tree
	path   string
	events int    // v1: an eventfd, -1: none
	above  uint64 // v2: the count of the cgroup above at the beginning
}

// WatchOOM begins to watch a cgroup. The caller closes the watch.
func WatchOOM(path string) (*OOMWatch, error) {
	t, err := open(path)
	if err != nil {
		return nil, err
	}
	return t.watchOOM(path)
}

func (t tree) watchOOM(path string) (*OOMWatch, error) {
	w := &OOMWatch{t: t, path: path, events: -1}
	dir := t.v1("memory", path)
	var err error
	if dir == "" {
		w.above, err = t.oomKills(filepath.Dir(path))
	} else {
		w.events, err = oomEvents(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("watch the memory of cgroup %q: %w", path, err)
	}
	return w, nil
}

// oomEvents gives an eventfd that counts how often memory was short in a v1 cgroup, or in one above so that it was looked for a
// victim here, and one more when the cgroup is removed.
func oomEvents(dir string) (int, error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return -1, err
	}
	defer control.Close()
	events, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, os.NewSyscallError("eventfd", err)
	}
	if err := write(dir, "cgroup.event_control", fmt.Sprintf("%d %d", events, control.Fd())); err != nil {
		unix.Close(events)
		return -1, err
	}
	return events, nil
}

// removalTold bounds how long after the removal of a v1 cgroup the kernel tells of it.
const removalTold = 200 * time.Millisecond

// Killed tells of a cgroup without processes, whose last one was killed, whether the kernel did that for want of memory. As
// long as the cgroup is there its count says so. Of one that is gone, memory that was short at any time of the watch does.
// To be asked once.
func (w *OOMWatch) Killed() bool {
	dir := w.t.v1("memory", w.path)
	above := dir == ""
	if above {
		dir = w.t.v2(w.path)
	}
	if n, err := w.t.oomKills(w.path); n > 0 || err != nil {
		return n > 0
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		return false
	}
	if above {
		n, err := w.t.oomKills(filepath.Dir(w.path))
		return err == nil && n > w.above
	}
	// One event is that of the removal, and comes a moment behind it.
	var n uint64
	deadline := time.Now().Add(removalTold)
	for left := removalTold; n < 2 && left > 0; left = time.Until(deadline) {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(w.events), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		n += w.read()
	}
	return n >= 2
}

// read takes the events that have come.
func (w *OOMWatch) read() uint64 {
	var b [8]byte
	if _, err := unix.Read(w.events, b[:]); err != nil {
		return 0
	}
	return binary.NativeEndian.Uint64(b[:])
}

// Close ends the watch.
func (w *OOMWatch) Close() {
	if w.events >= 0 {
		unix.Close(w.events)
	}
}
