// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// byNumber names the lower directories by the numbers of their descriptors, relative to /proc/thread-self/fd: 500
// of them fit into a page. Upper and work keep their paths where there is room, so that [At] knows them.
func byNumber(source string, at *os.File, flags uintptr, s *stack) error {
	data, err := s.numbered()
	if err != nil {
		return err
	}
	return onThread(func() error {
		if err := unix.Chdir("/proc/thread-self/fd"); err != nil {
			return fmt.Errorf("change to the directory of descriptors: %w", err)
		}
		err := unix.Mount(source, procPath(at), "overlay", flags, data)
		return errors.Join(err, unix.Chdir("/")) // which no mount keeps busy
	})
}

// numbered writes the options for mount(2).
func (s *stack) numbered() (string, error) {
	number := func(l layer) string { return strconv.Itoa(int(l.file.Fd())) }
	var lower strings.Builder
	for i, l := range s.layers[:s.lower] {
		switch {
		case i == 0:
		case l.key == "datadir+":
			lower.WriteString("::")
		default:
			lower.WriteString(":")
		}
		lower.WriteString(number(l))
	}
	short, long := slices.Clone(s.rest), slices.Clone(s.rest)
	for _, l := range s.layers[s.lower:] {
		short = append(short, l.key+"="+number(l))
		path, err := filepath.Abs(l.path)
		if err != nil {
			return "", err
		}
		long = append(long, l.key+"="+Escape(path))
	}
	for _, data := range [][]string{long, short} {
		if joined := strings.Join(append(data, "lowerdir="+lower.String()), ","); len(joined) < os.Getpagesize() {
			return joined, nil
		}
	}
	return "", fmt.Errorf("options of more than the %d bytes that the kernel takes: %w", os.Getpagesize()-1, errdefs.ErrInvalidArgument)
}

// mounter is a thread with a working directory of its own. It serves the whole life of the process: a child whose
// parent death signal hangs on a thread would die with it.
var mounter = sync.OnceValues(func() (chan<- func(), error) {
	work, ready := make(chan func()), make(chan error)
	go serveOnThread(work, ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return work, nil
})

func serveOnThread(work <-chan func(), ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The working directory of the main thread is what the process is seen to have.
		done := make(chan struct{})
		go func() {
			defer close(done)
			serveOnThread(work, ready)
		}()
		<-done
		return
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		runtime.UnlockOSThread() // it is as it was
		ready <- fmt.Errorf("unshare working directory: %w", err)
		return
	}
	ready <- nil
	for fn := range work {
		fn()
	}
}

// onThread runs fn on the thread with the working directory of its own, one call at a time.
func onThread(fn func() error) error {
	work, err := mounter()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	work <- func() { done <- fn() }
	return <-done
}
