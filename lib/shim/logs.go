// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/stdio"
	"ctrd.dev/ctrd/lib/taskdir"
)

// logs is the container's log.
type logs struct {
	t    *task
	mu   sync.Mutex
	uri  string
	w    *stdio.Writer
	told uint64 // how many dropped bytes have been reported
}

// sharedBuffer is what all pumps of all containers read into, one at a time.
type sharedBuffer struct {
	sync.Mutex
	b []byte
}

const pumpBuffer = 32 << 10

func (l *logs) open(uri string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w != nil {
		if l.uri != uri {
			return fmt.Errorf("a second log, %q: %w", uri, errdefs.ErrInvalidArgument)
		}
		return nil
	}
	log, err := stdio.ParseLog(uri)
	if err != nil {
		return err
	}
	l.w, err = log.Create()
	l.uri = uri
	return err
}

// pump writes what comes from f to the log until its end. It takes the shared buffer only when there is
// something to read.
func (l *logs) pump(f *os.File, stream stdio.Stream) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	conn.Read(func(fd uintptr) bool {
		for {
			n, err := l.move(int(fd), stream)
			switch {
			case err == unix.EINTR:
			case err == unix.EAGAIN:
				return false
			case err != nil || n == 0: // a terminal's end is EIO
				return true
			}
		}
	})
}

func (l *logs) move(fd int, stream stdio.Stream) (int, error) {
	buf := &l.t.s.buffer
	buf.Lock()
	defer buf.Unlock()
	if buf.b == nil {
		buf.b = make([]byte, pumpBuffer)
	}
	n, err := unix.Read(fd, buf.b)
	if n <= 0 || err != nil {
		return n, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil { // closed: this output was not waited for
		return n, nil
	}
	l.w.Write(stream, buf.b[:n])
	if dropped, err := l.w.Dropped(); dropped > 2*l.told {
		if l.told == 0 {
			l.t.logf("output is being dropped: %v", err)
		}
		l.told = dropped
		l.t.recordLost(taskdir.Dropped{Bytes: dropped, Error: err.Error()})
	}
	return n, nil
}

// dropped is how many bytes could not be written.
func (l *logs) dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		return 0
	}
	n, _ := l.w.Dropped()
	return n
}

func (l *logs) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		return
	}
	if n, err := l.w.Dropped(); n > 0 {
		l.t.logf("%d bytes of output were dropped: %v", n, err)
	}
	l.w.Close()
	l.w = nil
}
