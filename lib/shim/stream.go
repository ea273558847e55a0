// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"os"
	"strings"
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
	input   *os.File // what goes to the terminal
	output  *os.File // where the terminal's output goes when it is a FIFO
	log     bool     // the terminal's output goes to the log

	pipes []pipe
	pumps sync.WaitGroup
}

// pipe is one output on its way to the log.
type pipe struct {
	r      *os.File
	stream stdio.Stream
}

// logs is the container's log.
type logs struct {
	s   *server
	mu  sync.Mutex
	uri string
	w   *stdio.Writer
	bad bool // a drop has been reported
}

// sharedBuffer is what all pumps of all containers read into, one at a time.
type sharedBuffer struct {
	sync.Mutex
	b []byte
}

const pumpBuffer = 32 << 10

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
		if i == 1 && uri == "" && strings.HasPrefix(p.stdout, "file://") {
			uri = p.stdout
		}
		out, err := st.openOutput(uri, stdio.Stream(i), p.execID == "")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", stdio.Stream(i), err)
		}
		st.give = append(st.give, out)
	}
	return st, nil
}

func (st *streams) openStdin(path string) (*os.File, error) {
	if path == "" {
		return os.OpenFile("/dev/null", os.O_RDONLY, 0)
	}
	r, w, err := stdio.OpenBoth(path)
	if err != nil {
		return nil, err
	}
	st.stdin = w
	if err := stdio.Blocking(r); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// openOutput opens what the process writes to. A FIFO is given to the process itself. We keep a read end
// of it when nobody reads it yet, or always: then a client may come and go.
func (st *streams) openOutput(uri string, stream stdio.Stream, keep bool) (*os.File, error) {
	scheme, path, isURI := strings.Cut(uri, "://")
	switch {
	case uri == "":
		return os.OpenFile("/dev/null", os.O_WRONLY, 0)
	case !isURI:
		w, err := st.openFIFO(uri, keep)
		if err != nil {
			return nil, err
		}
		return w, stdio.Blocking(w)
	case scheme == "file":
		return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	case scheme == "log":
		if err := st.t.log.open(uri); err != nil {
			return nil, err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		st.pipes = append(st.pipes, pipe{r, stream})
		return w, nil
	}
	return nil, fmt.Errorf("output %q: %w", uri, errdefs.ErrNotImplemented)
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
	switch scheme, path, isURI := strings.Cut(p.stdout, "://"); {
	case p.stdout == "":
	case !isURI:
		st.output, err = st.openFIFO(p.stdout, p.execID == "")
	case scheme == "file":
		st.output, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	case scheme == "log":
		st.log = true
		err = st.t.log.open(p.stdout)
	default:
		err = fmt.Errorf("output %q: %w", p.stdout, errdefs.ErrNotImplemented)
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
	for _, p := range st.pipes {
		st.pumps.Go(func() { st.t.log.pump(p.r, p.stream) })
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
	buf := &l.s.buffer
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
	if !l.bad {
		if dropped, err := l.w.Dropped(); dropped > 0 {
			l.bad = true
			fmt.Fprintf(os.Stderr, "%s output is being dropped: %v\n", time.Now().UTC().Format(time.RFC3339), err)
		}
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
		fmt.Fprintf(os.Stderr, "%s %d bytes of output were dropped: %v\n", time.Now().UTC().Format(time.RFC3339), n, err)
	}
	l.w.Close()
	l.w = nil
}

// drain waits until the output has come to its end, for so long at most, and closes everything.
func (st *streams) drain(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		st.pumps.Wait()
		close(done)
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		st.t.logf("output does not end: a process outside the container has it open")
	}
	st.close()
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
	st.closeStdin()
	for _, p := range st.pipes {
		p.r.Close()
	}
	for _, f := range append(st.hold, st.console, st.socket, st.input, st.output) {
		if f != nil {
			f.Close()
		}
	}
}
