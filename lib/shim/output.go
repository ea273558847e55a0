// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/stdio"
)

// output is where a process's stdout or stderr goes: containerd's forms, and our log.
type output struct {
	scheme string // "" for nowhere, fifo, file, log, binary, binary-v2, or what is not known
	path   string
	query  string
}

func parseOutput(uri string) output {
	scheme, rest, isURI := strings.Cut(uri, "://")
	if uri == "" {
		return output{}
	}
	if !isURI {
		return output{scheme: "fifo", path: uri}
	}
	path, query, _ := strings.Cut(rest, "?")
	if p, err := url.PathUnescape(path); err == nil {
		path = p
	}
	return output{scheme, path, query}
}

func isFIFO(uri string) bool { return parseOutput(uri).scheme == "fifo" || uri == "" }

// openOutput opens what the process writes to. A FIFO is given to the process itself. We keep a read end
// of it when nobody reads it yet, or always for init: then a client may come and go.
func (st *streams) openOutput(p *process, uri string, stream stdio.Stream) (*os.File, error) {
	o := parseOutput(uri)
	switch o.scheme {
	case "":
		return os.OpenFile("/dev/null", os.O_WRONLY, 0)
	case "fifo":
		w, err := st.openFIFO(o.path, p.execID == "")
		if err != nil || p.terminal {
			return w, err
		}
		return w, stdio.Blocking(w)
	case "file":
		if err := os.MkdirAll(filepath.Dir(o.path), 0o755); err != nil {
			return nil, err
		}
		return os.OpenFile(o.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	case "log":
		if err := st.t.log.open(uri); err != nil {
			return nil, err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		st.pipes = append(st.pipes, pipe{r, stream})
		return w, nil
	case "binary", "binary-v2":
		if st.logger == nil {
			l, err := st.t.startLogger(o)
			if err != nil {
				return nil, err
			}
			st.logger = l
		}
		return st.logger.take(stream), nil
	}
	return nil, fmt.Errorf("output %q: %w", uri, errdefs.ErrNotImplemented)
}

// chown gives the process's ends to the user and the group that the options of Create name, so that a
// program that is not root can open /dev/stdout again.
func (st *streams) chown() error {
	uid, gid := int(st.t.options.IoUID), int(st.t.options.IoGID)
	if uid == 0 && gid == 0 {
		return nil
	}
	for _, f := range st.give {
		if f.Name() == os.DevNull {
			continue
		}
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// logger is a logging program of containerd's binary scheme: it reads stdout at descriptor 3 and stderr at 4,
// and says at 5 that it is ready.
type logger struct {
	t    *task
	pid  int
	in   [2]*os.File   // write ends of its pipes, until a process takes them
	gone chan struct{} // closed when it has been reaped
}

// readyTime bounds how long a logging program may take to be ready.
const readyTime = 10 * time.Second

// startLogger starts a logging program and waits until it is ready.
func (t *task) startLogger(o output) (_ *logger, err error) {
	l := &logger{t: t}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			l.close()
			if l.pid > 0 {
				l.signal(unix.SIGKILL)
			}
			err = fmt.Errorf("logging program %s: %w", o.path, err)
		}
	}()
	for i := range l.in {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		theirs, l.in[i] = append(theirs, r), w
	}
	ready, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	theirs = append(theirs, w)
	files := []uintptr{0, 2, 2, theirs[0].Fd(), theirs[1].Fd(), w.Fd()}
	l.pid, l.gone, err = t.s.startLogger(append([]string{o.path}, arguments(o.query)...), &syscall.ProcAttr{
		Dir:   t.bundle,
		Env:   []string{"CONTAINER_ID=" + t.id, "CONTAINER_NAMESPACE=" + t.s.config.Namespace},
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true}, // it outlives us, to read what is left
	})
	if err != nil {
		return nil, err
	}
	w.Close()
	ready.SetReadDeadline(time.Now().Add(readyTime))
	n, err := ready.Read(make([]byte, 1))
	switch {
	case err == io.EOF && o.scheme == "binary":
		return l, nil
	case n == 0 && (err == nil || err == io.EOF):
		return nil, fmt.Errorf("it ended before it was ready: %w", errdefs.ErrFailedPrecondition)
	case err != nil:
		return nil, fmt.Errorf("wait until it is ready: %w", err)
	}
	return l, nil
}

// arguments are the arguments that a query stands for: each key, then its value.
func arguments(query string) (args []string) {
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		for _, s := range []string{key, value} {
			if u, err := url.QueryUnescape(s); err == nil {
				s = u
			}
			args = append(args, s)
		}
	}
	return args
}

// take gives the write end of one of its pipes, which is the caller's from then on.
func (l *logger) take(s stdio.Stream) *os.File {
	f := l.in[s]
	l.in[s] = nil
	return f
}

// close gives up the pipes that nobody has taken.
func (l *logger) close() {
	for i, f := range l.in {
		if f != nil {
			f.Close()
			l.in[i] = nil
		}
	}
}

// lastWords bounds how long a logging program may take to end after it was told to. With the drainTime before that it has
// 10 s from the end of its input, as it has with containerd's shims, which tell it at once.
const lastWords = 5 * time.Second

// wait waits until the program has read everything and has ended, for so long at most; then it tells it to end, and kills
// it when it has not after lastWords.
func (l *logger) wait(limit, lastWords time.Duration) {
	l.close()
	select {
	case <-l.gone:
		return
	case <-time.After(limit):
	}
	l.t.logf("logging program %d does not end by itself", l.pid)
	l.signal(unix.SIGTERM)
	select {
	case <-l.gone:
	case <-time.After(lastWords):
		l.signal(unix.SIGKILL)
	}
}

func (l *logger) signal(sig unix.Signal) {
	l.t.s.mu.Lock()
	defer l.t.s.mu.Unlock()
	if isClosed(l.gone) {
		return
	}
	if err := unix.Kill(l.pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		l.t.logf("signal %d to logging program %d: %v", sig, l.pid, err)
	}
}
