// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/stdio"
)

// streams are a process's stdin, stdout and stderr, seen from the supervisor.
type streams struct {
	t    *task
	give []*os.File // what the process gets, until begin or close

	stdin   *os.File // our write end of the stdin FIFO, which keeps stdin open until CloseIO
	hold    []*os.File
	console *os.File // the terminal's master
	socket  *os.File // on which it will come
	input   *os.File // our read end of the stdin FIFO: what goes to the process
	feed    *os.File // our write end of the pipe that the process reads; nil with a terminal
	output  *os.File // where the terminal's output goes when it is not the log
	log     bool     // the terminal's output goes to the log
	logger  *logger  // the program that takes the output

	pipes []pipe
	pumps sync.WaitGroup
}

// pipe is one output on its way to the log.
type pipe struct {
	r      *os.File
	stream stdio.Stream
}

// openStreams opens all ends without waiting for any client.
func (t *task) openStreams(p *process) (_ *streams, err error) {
	st := &streams{t: t}
	defer func() {
		if err != nil {
			st.close()
		}
	}()
	if p.terminal {
		return st, st.openTerminal(p)
	}
	in, err := st.openStdin(p.stdin)
	if err != nil {
		return nil, fmt.Errorf("stdin: %w", err)
	}
	st.give = append(st.give, in)
	for i, uri := range []string{p.stdout, p.stderr} {
		stream := stdio.Stream(i)
		if stream == stdio.Stderr && uri == "" && !isFIFO(p.stdout) {
			uri = p.stdout // as containerd's shims do
		}
		out, err := st.openOutput(p, uri, stream)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", stream, err)
		}
		st.give = append(st.give, out)
	}
	if err := st.chown(); err != nil {
		return nil, err
	}
	return st, nil
}

// openStdin gives the process an anonymous pipe, which is fed from the FIFO: a program that opens /dev/stdin anew
// meets the end of the input there, where a FIFO without a writer would have it wait for ever.
func (st *streams) openStdin(path string) (_ *os.File, err error) {
	if path == "" {
		return os.OpenFile("/dev/null", os.O_RDONLY, 0)
	}
	if st.input, st.stdin, err = stdio.OpenBoth(path); err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	st.feed = w
	if err := stdio.Blocking(r); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (st *streams) openFIFO(path string, keep bool) (*os.File, error) {
	if !keep {
		w, err := stdio.OpenWriter(path)
		if !errdefs.IsUnavailable(err) {
			return w, err
		}
	}
	r, w, err := stdio.OpenBoth(path)
	if err != nil {
		return nil, err
	}
	st.hold = append(st.hold, r)
	return w, nil
}

func (st *streams) openTerminal(p *process) (err error) {
	if p.stdin != "" {
		if st.input, st.stdin, err = stdio.OpenBoth(p.stdin); err != nil {
			return fmt.Errorf("stdin: %w", err)
		}
	}
	if target := parseOutput(p.stdout); target.scheme == "log" {
		st.log = true
		err = st.t.log.open(p.stdout)
	} else if target.scheme != "" {
		st.output, err = st.openOutput(p, p.stdout, stdio.Stdout)
	}
	if err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	ours, theirs, err := ask.Pair()
	if err != nil {
		return err
	}
	st.socket, st.give = ours, []*os.File{theirs}
	return nil
}

// begin is called once the process has its ends: ours begin to carry.
func (st *streams) begin() error {
	st.closeGiven()
	if st.logger != nil {
		st.logger.close()
	}
	for _, p := range st.pipes {
		st.pumps.Go(func() { st.t.log.pump(p.r, p.stream) })
	}
	if feed, in := st.feed, st.input; feed != nil {
		go func() {
			// In this order: whoever writes next learns that nobody reads any more.
			stdio.Splice(feed, in)
			in.Close()
			feed.Close()
		}()
	}
	if st.socket == nil {
		return nil
	}
	console, err := receiveConsole(st.socket)
	st.socket.Close()
	st.socket = nil
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	st.console = console
	if st.log {
		st.pumps.Go(func() { st.t.log.pump(console, stdio.Stdout) })
	} else {
		st.pumps.Go(func() { carry(st.output, console) })
	}
	if in := st.input; in != nil {
		go func() { carry(console, in) }()
	}
	return nil
}

func receiveConsole(socket *os.File) (*os.File, error) {
	_, files, err := ask.ReceiveFiles(socket, make([]byte, 4096))
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("%d files came: %w", len(files), errdefs.ErrInternal)
	}
	defer files[0].Close()
	fd, err := unix.FcntlInt(files[0].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	return os.NewFile(uintptr(fd), "console"), err
}

// carry copies until src ends. What dst does not take is thrown away, so that the writer never waits for
// a client that is gone; dst may be nil.
func carry(dst, src *os.File) {
	buf := make([]byte, 8<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 && dst != nil {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				dst = nil
			}
		}
		if err != nil {
			return
		}
	}
}

// drain waits until the output has come to its end, for so long at most, and closes everything.
func (st *streams) drain(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		st.pumps.Wait()
		close(done)
	}()
	begun := time.Now()
	select {
	case <-done:
	case <-time.After(limit):
		st.t.logf("output does not end: a process outside the container has it open")
	}
	st.letRead()
	st.close()
	if st.logger != nil {
		st.logger.wait(limit-time.Since(begun), lastWords)
	}
}

// readTime bounds how long a client may take to read a terminal's last output.
const readTime = time.Second

// letRead waits until the client has read what a terminal's FIFO still holds: containerd's clients close their end as soon as
// they have deleted the process, and what they have not read by then is lost. A client that is gone is not waited for.
func (st *streams) letRead() {
	if st.console == nil || st.output == nil {
		return
	}
	// Of a file FIONREAD counts what others have appended.
	if info, err := st.output.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return
	}
	for _, f := range st.hold { // ours would hide that nobody else reads
		f.Close()
	}
	st.hold = nil
	raw, err := st.output.SyscallConn()
	if err != nil {
		return
	}
	for late := time.Now().Add(readTime); time.Now().Before(late); time.Sleep(time.Millisecond) {
		read := true
		raw.Control(func(fd uintptr) {
			polled := []unix.PollFd{{Fd: int32(fd)}}
			if _, err := unix.Poll(polled, 0); err != nil || polled[0].Revents&unix.POLLERR != 0 {
				return // nobody reads
			}
			n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
			read = err != nil || n == 0
		})
		if read {
			return
		}
	}
}

// closeStdin lets the process meet the end of its input once it has read what is there.
func (st *streams) closeStdin() error {
	if st.stdin == nil {
		return nil
	}
	if err := st.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

func (st *streams) closeGiven() {
	for _, f := range st.give {
		f.Close()
	}
	st.give = nil
}

func (st *streams) close() {
	st.closeGiven()
	if st.logger != nil {
		st.logger.close()
	}
	st.closeStdin()
	for _, p := range st.pipes {
		p.r.Close()
	}
	for _, f := range append(st.hold, st.console, st.socket, st.input, st.feed, st.output) {
		if f != nil {
			f.Close()
		}
	}
}
