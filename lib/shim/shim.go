// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Config says what to supervise. The working directory is the task directory.
type Config struct {
	Namespace, ID string
	Events        string // directory of the event journal; empty: no events
	Sockets       string // directory of the socket; empty: s beside the directory of all tasks
	// Remove is the command that removes a container which nobody else will remove; it is started when the
	// container has ended and no client holds client.lock.
	Remove []string
}

const (
	version   = 3 // of the task API
	gcPercent = 30
)

// Serve supervises until there is nothing left to supervise. ready is told "ok\n", or why not, and closed.
func Serve(c Config, ready *os.File) error {
	// A collection costs more memory, for its own work, than all the garbage of a start. The first one is
	// due at a heap of gcPercent hundredths of 4 MiB, after some dozen execs.
	debug.SetGCPercent(gcPercent)
	runtime.GOMAXPROCS(1)
	held, err := lock.Hold(taskdir.ShimLock)
	if err != nil {
		return refuse(ready, err)
	}
	defer held.Release()
	s, l, err := start(c)
	if err != nil {
		return refuse(ready, err)
	}
	crash.Point("shim.listening")
	_, err = ready.WriteString("ok\n")
	if err = errors.Join(err, ready.Close()); err != nil {
		// Whoever started us is gone; the watch for that ends it all.
		s.logf("tell that the supervisor is ready: %v", err)
	}
	err = taskapi.Serve(s.life, l, s)
	if err != nil {
		s.logf("%v", err)
		s.abandon("supervisor: " + err.Error())
		<-s.life.Done()
	}
	s.endEngines()
	s.events.Wait()
	s.log.close()
	os.Remove(s.socket)
	if len(c.Remove) > 0 {
		if taken, err := lock.IsHeld(taskdir.ClientLock); !taken && err == nil {
			// It waits for this process to end, and it works on the host's mounts.
			crash.Point("shim.remove")
			return runIn(s.outside, c.Remove)
		}
	}
	return err
}

// keepFiles keeps all files but stdin, stdout, stderr and the descriptor that is told from the programs that
// we start: the starter's lock among them says that the supervisor lives.
func keepFiles() {
	const first = 4
	if unix.CloseRange(first, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Linux before 5.11.
	open, _ := os.ReadDir("/proc/self/fd")
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
}

// refuse tells why there is no supervisor.
func refuse(ready *os.File, err error) error {
	ready.WriteString(err.Error())
	ready.Close()
	return err
}

// start makes everything that must be there before the first call; when it fails nothing is left.
func start(c Config) (_ *server, _ net.Listener, err error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, nil, err
	}
	if c.Sockets == "" {
		c.Sockets = filepath.Join(dir, "../../../s")
	}
	keepFiles()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, os.NewSyscallError("become a subreaper", err)
	}
	s := &server{config: c, dir: dir, execs: make(map[string]*process), helpers: make(map[int]bool), journal: event.Journal{Dir: c.Events}}
	s.life, s.end = context.WithCancel(context.Background())
	s.watchChildren()
	// The engine gets ready while the client connects.
	if s.engine, err = s.spawnEngine(ask.Create); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			s.engine.close()
		}
	}()
	if len(c.Remove) > 0 {
		if s.outside, err = outsideNamespace(); err != nil {
			return nil, nil, err
		}
	}
	if err := os.MkdirAll(c.Sockets, 0o700); err != nil {
		return nil, nil, err
	}
	s.socket = filepath.Join(c.Sockets, taskapi.SocketName(dir))
	l, err := taskapi.Listen("unix://" + s.socket)
	if err != nil {
		return nil, nil, err
	}
	self, err := taskdir.ProcessOf(os.Getpid())
	if err == nil {
		err = taskdir.Write("", taskdir.Shim, taskdir.Supervisor{Process: self, Address: "unix://" + s.socket, Version: version})
	}
	if err != nil {
		l.Close()
		os.Remove(s.socket)
		return nil, nil, err
	}
	go s.watchStarter()
	return s, l, nil
}

// watchStarter ends a supervisor whose starter died before it came to Start.
func (s *server) watchStarter() {
	if _, err := os.Lstat(taskdir.StartLock); err != nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-s.life.Done():
			return
		case <-tick.C:
		}
		if s.hasStarted() {
			return
		}
		held, err := lock.IsHeld(taskdir.StartLock)
		if err == nil && !held && !s.hasStarted() {
			s.abandon("whoever started it died")
		}
	}
}

// events are appended to the journal in order, without anybody waiting for its lock.
type eventQueue struct {
	sync.WaitGroup
	mu      sync.Mutex
	waiting []event.Payload
	busy    bool
}

func (s *server) emit(p ...event.Payload) {
	if s.journal.Dir == "" {
		return
	}
	q := &s.events
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, p...)
	if q.busy {
		return
	}
	q.busy = true
	q.Go(func() {
		for {
			q.mu.Lock()
			batch := q.waiting
			q.waiting = nil
			q.busy = len(batch) > 0
			q.mu.Unlock()
			if len(batch) == 0 {
				return
			}
			if err := s.journal.Append(s.config.Namespace, batch...); err != nil {
				s.logf("%v", err)
			}
		}
	})
}

// logf writes a line to shim.log, which is stderr.
func (s *server) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().UTC().Format(time.RFC3339)+" "+format+"\n", args...)
}
