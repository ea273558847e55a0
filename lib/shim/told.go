// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/taskdir"
)

// maxTold bounds what others may add to the log of a supervisor, in bytes: it is in memory.
const maxTold = 1 << 20

// listen begins to take what is written to the FIFO that stands for the log of containerd's shims, if the starter has made one: it is
// added to ours. As long as the supervisor has the task, to open it does not wait, and to write to it neither.
func (t *task) listen() error {
	if t.record.IO == nil {
		return nil
	}
	path := t.path(taskdir.Bundle, taskdir.BundleLog)
	// Both ends: it is never at its end.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	t.told = os.NewFile(uintptr(fd), path)
	go t.copyTold(t.told)
	return nil
}

// stopListening removes the FIFO, so that nobody waits for a reader that does not come.
func (t *task) stopListening() {
	if t.told == nil {
		return
	}
	if err := os.Remove(t.told.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.logf("%v", err)
	}
	t.told.Close()
	t.told = nil
}

// copyTold adds what comes from f to the log, until f is closed.
func (t *task) copyTold(f *os.File) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	log, left := -1, maxTold
	defer func() {
		if log >= 0 {
			unix.Close(log)
		}
	}()
	for {
		n, failed := 0, error(nil)
		err := conn.Read(func(fd uintptr) bool {
			n, failed = t.moveTold(int(fd), &log, left)
			return failed != unix.EAGAIN
		})
		if err != nil || failed != nil && failed != unix.EINTR || failed == nil && n <= 0 {
			return
		}
		if n = max(n, 0); n > left && left > 0 {
			t.logf("more than %d bytes were written to %s: the rest is dropped", maxTold, f.Name())
		}
		left -= min(left, n)
	}
}

// moveTold moves what is there in the FIFO to the log, which is opened with the first of it, and drops what is more than left.
func (t *task) moveTold(fd int, log *int, left int) (int, error) {
	buf := &t.s.buffer
	buf.Lock()
	defer buf.Unlock()
	if buf.b == nil {
		buf.b = make([]byte, pumpBuffer)
	}
	n, err := unix.Read(fd, buf.b)
	if n <= 0 || err != nil {
		return n, err
	}
	if *log < 0 {
		// Not stderr: that of a sandbox's supervisor is elsewhere.
		if *log, err = unix.Open(t.path(taskdir.ShimLog), unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC, 0o600); err != nil {
			return n, nil // there is nobody to tell
		}
	}
	_, _ = unix.Write(*log, buf.b[:min(n, left)])
	return n, nil
}
