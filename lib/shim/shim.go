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
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Config says what to supervise.
type Config struct {
	Namespace string
	ID        string // the first container
	Bundle    string // its directory, absolute
	Events    string // directory of the event journal; empty: no events
	Sockets   string // directory of the socket; empty: s beside the directory of all tasks
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
	spawned := inherited(filepath.Join(c.Bundle, taskdir.SpawnLock))
	if err := closeInherited(int(ready.Fd()), spawned); err != nil {
		return refuse(ready, err)
	}
	held, err := lock.Hold(filepath.Join(c.Bundle, taskdir.ShimLock))
	if err != nil {
		return refuse(ready, err)
	}
	defer held.Release()
	if spawned >= 0 {
		unix.Close(spawned)
	}
	s, l, err := start(c)
	if err != nil {
		return refuse(ready, err)
	}
	crash.Point("shim.listening")
	_, err = ready.WriteString("ok\n")
	if err = errors.Join(err, ready.Close()); err != nil {
		// The starter is gone; the watch for that ends it all.
		s.logf("tell that the supervisor is ready: %v", err)
	}
	outside := s.outside
	err = taskapi.Serve(s.life, l, s)
	if err != nil {
		s.logf("%v", err)
		s.abandon("supervisor: " + err.Error())
		<-s.life.Done()
	}
	s.endEngines()
	s.events.wait()
	os.Remove(s.socket)
	if len(c.Remove) > 0 {
		if taken, err := lock.IsHeld(filepath.Join(c.Bundle, taskdir.ClientLock)); !taken && err == nil {
			// It waits for this process to end, and it works on the host's mounts.
			crash.Point("shim.remove")
			return runIn(outside, c.Remove)
		}
	}
	return err
}

// refuse tells why there is no supervisor.
func refuse(ready *os.File, err error) error {
	ready.WriteString(err.Error())
	ready.Close()
	return err
}

// start makes everything that must be there before the first call; when it fails nothing is left.
func start(c Config) (_ *server, _ net.Listener, err error) {
	if c.Sockets == "" {
		c.Sockets = filepath.Join(c.Bundle, "../../../s")
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, os.NewSyscallError("become a subreaper", err)
	}
	s := &server{config: c, tasks: make(map[string]*task), helpers: make(map[int]bool)}
	s.events.logf = s.logf
	if c.Events != "" {
		s.events.send = event.Journal{Dir: c.Events}.Append
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.watchChildren()
	t := s.newTask(c.ID, c.Bundle)
	s.tasks[t.id] = t
	// The engine gets ready while the client connects.
	if s.prepared, err = t.spawnEngine(ask.Create); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			s.prepared.close()
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
	s.socket = filepath.Join(c.Sockets, taskapi.SocketName(c.Bundle))
	l, err := taskapi.Listen("unix://" + s.socket)
	if err != nil {
		return nil, nil, err
	}
	self, err := taskdir.ProcessOf(os.Getpid())
	if err == nil {
		err = t.write(taskdir.Shim, taskdir.Supervisor{Process: self, Address: "unix://" + s.socket, Version: version})
	}
	if err != nil {
		l.Close()
		os.Remove(s.socket)
		return nil, nil, err
	}
	go t.watchStarter()
	return s, l, nil
}

// logf writes a line to stderr, which is shim.log.
func (s *server) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().UTC().Format(time.RFC3339)+" "+format+"\n", args...)
}
