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

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/engine/ask"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// Config says what to supervise and for whom.
type Config struct {
	Namespace string
	ID        string // the first container, or the sandbox
	Bundle    string // its directory, absolute
	Socket    string // path of the socket to serve on
	Events    string // directory of the event journal; empty: no events are written there
	Filters   string // directory of compiled seccomp filters; empty: none are kept
	// Command is ctr-task with its global options: what removes or restarts a container whose record asks for
	// that, with the verb and its operands added. Empty: nothing does.
	Command []string
	// Containerd says that the client is containerd: the supervisor lives until Shutdown.
	Containerd bool
	TTRPC      string // address of containerd's event service; empty: no events are sent there
}

// Version is the version of the task API that the supervisor speaks.
const Version = 3

const gcPercent = 30

// Serve supervises until there is nothing left to supervise. ready is called once the socket listens.
func Serve(c Config, ready func() error) error {
	// A collection costs more memory, for its own work, than all the garbage of a start. The first one is
	// due at a heap of gcPercent hundredths of 4 MiB, after some dozen execs.
	debug.SetGCPercent(gcPercent)
	runtime.GOMAXPROCS(1)
	// Of what is started here, as under a daemon: a program's umask is not that of who started its container.
	unix.Umask(0o022)
	spawned := inherited(filepath.Join(c.Bundle, taskdir.SpawnLock))
	if err := closeInherited(spawned); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	s, l, err := start(c)
	if err != nil {
		return err
	}
	if spawned >= 0 {
		unix.Close(spawned) // shim.lock is held
	}
	crash.Point("shim.listening")
	if err := ready(); err != nil {
		// The starter is gone: nobody will learn the address.
		s.abandon(fmt.Sprintf("tell that the supervisor is ready: %v", err))
	}
	err = taskapi.Serve(s.life, l, s, s)
	if err != nil {
		s.logf("%v", err)
		s.abandon("supervisor: " + err.Error())
		<-s.life.Done()
	}
	s.endings.Wait()
	s.endEngines()
	s.events.wait()
	return err
}

// start makes everything that must be there before the first call; when it fails nothing is left.
func start(c Config) (_ *server, _ net.Listener, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, os.NewSyscallError("become a subreaper", err)
	}
	s := newServer(c)
	s.events.logf = s.logf
	switch {
	case c.TTRPC != "":
		s.events.send = s.forward(c.TTRPC)
	case c.Events != "":
		s.events.send = appendTo(event.Journal{Dir: c.Events})
	}
	s.life, s.end = context.WithCancel(context.Background())
	var pod taskdir.Pod
	if known, err := taskdir.Read(c.Bundle, taskdir.PodRecord, &pod); err != nil {
		return nil, nil, err
	} else if known {
		l, err := s.startPod(pod)
		return s, l, err
	}
	t := s.newTask(c.ID, c.Bundle)
	if err := t.adopt(); err != nil {
		return nil, nil, err
	}
	if t.record != nil && t.record.IO != nil {
		// As for containerd: what clients have started goes before the server that they speak to.
		if err := cgroup.Expose(os.Getpid()); err != nil {
			return nil, nil, err
		}
	}
	s.watchChildren()
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
	if err := os.MkdirAll(filepath.Dir(c.Socket), 0o700); err != nil {
		return nil, nil, err
	}
	l, err := taskapi.Listen("unix://" + c.Socket)
	if err != nil {
		return nil, nil, err
	}
	if err := t.announce(); err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	if t.record != nil {
		go t.watchStarter()
	}
	return s, l, nil
}

// logf writes a line to stderr: shim.log, or containerd's log.
func (s *server) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().UTC().Format(time.RFC3339)+" "+format+"\n", args...)
}
