// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/stdio"
)

// Log is the logging program of containerd's binary scheme for our log format: it copies stdout, at descriptor 3,
// and stderr, at 4, to the log until both have ended or SIGTERM comes, after which it takes what is there
// already. It says at descriptor 5 that it is ready.
func Log(uri string) error {
	log, err := stdio.ParseLog(uri)
	if err != nil {
		return err
	}
	w, err := log.Create()
	if err != nil {
		return err
	}
	var in [2]*os.File
	for s := range in {
		if err := unix.SetNonblock(firstFree+s, true); err != nil {
			return os.NewSyscallError("set nonblocking", err)
		}
		in[s] = os.NewFile(uintptr(firstFree+s), stdio.Stream(s).String())
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	ready := os.NewFile(firstFree+2, "ready")
	_, err = ready.Write([]byte{1})
	if err = errors.Join(err, ready.Close()); err != nil {
		return fmt.Errorf("tell that the log is open: %w", err)
	}
	go func() {
		<-end
		for _, f := range in {
			f.SetReadDeadline(time.Unix(1, 0))
		}
	}()
	var copies sync.WaitGroup
	for s, f := range in {
		copies.Go(func() { copyToLog(w, stdio.Stream(s), f) })
	}
	copies.Wait()
	if n, err := w.Dropped(); n > 0 {
		return errors.Join(fmt.Errorf("%d bytes of output were dropped: %w", n, err), w.Close())
	}
	return w.Close()
}

func copyToLog(w *stdio.Writer, s stdio.Stream, f *os.File) {
	buf := make([]byte, pumpBuffer)
	for {
		n, err := f.Read(buf)
		w.Write(s, buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return
		}
	}
	// What was written before the signal.
	for {
		n, err := unix.Read(firstFree+int(s), buf)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		w.Write(s, buf[:n])
	}
}
