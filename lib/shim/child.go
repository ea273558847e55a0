// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/cgroup"
)

// watchChildren reaps every child, and takes the signals that would end the process: a supervisor does not
// die of a stray one. They are caught and not ignored, because an ignored signal stays so in the container.
func (s *server) watchChildren() {
	// A full channel loses signals: one of another kind must not take SIGCHLD's place.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCHLD)
	go func() {
		for range c {
			s.reap()
		}
	}()
}

// reap collects all children that have ended.
func (s *server) reap() {
	for {
		// Under the lock, so that nobody signals a pid that has just become free.
		s.mu.Lock()
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			s.mu.Unlock()
			continue
		}
		if pid <= 0 || err != nil {
			s.mu.Unlock()
			return
		}
		s.reaped(pid, ending{status: exitStatus(ws), at: time.Now().UTC()})
		s.mu.Unlock()
	}
}

// reaped tells who waits for it that a child has ended; mu is held.
func (s *server) reaped(pid int, end ending) {
	switch gone := s.loggers[pid]; {
	case gone != nil:
		delete(s.loggers, pid)
		close(gone)
	case s.helpers[pid] != nil:
		if end.status != 0 {
			// It has not answered. What it has started is in its group, and would go on without it. A group's number is
			// not given to a new process while the group has one, nor soon after that.
			unix.Kill(-pid, unix.SIGKILL)
		}
		close(s.helpers[pid])
		delete(s.helpers, pid)
	case s.podInit != 0 && s.podInit == pid:
		s.podInit = 0
		s.endAll("the first process of the pod has ended")
	default:
		if p := s.byPid(pid); p != nil {
			p.reaped(end)
		} else if s.engines > 0 {
			// The engine may not have told yet whose pid this is.
			s.early[pid] = end
		}
	}
}

type ending struct {
	status uint32
	at     time.Time
}

func exitStatus(ws unix.WaitStatus) uint32 {
	if ws.Signaled() {
		return 128 + uint32(ws.Signal())
	}
	return uint32(ws.ExitStatus())
}

// startLogger starts a logging program; the channel is closed when it has been reaped.
func (s *server) startLogger(argv []string, attr *syscall.ProcAttr) (pid int, gone chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err = syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return 0, nil, err
	}
	gone = make(chan struct{})
	s.loggers[pid] = gone
	return pid, gone, nil
}

// startDetached starts a program in a session of its own, in the root directory, and outside of the cgroup that
// supervisors share, which the program may have to remove. It inherits the files.
func startDetached(argv []string, inherits ...*os.File) error {
	files := []uintptr{0, 2, 2}
	for _, f := range inherits {
		files = append(files, f.Fd())
	}
	err := cgroup.StartAbove(func(sys *syscall.SysProcAttr) error {
		sys.Setsid = true
		_, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Dir: "/", Env: os.Environ(), Files: files, Sys: sys})
		return err
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", argv[0], err)
	}
	return nil
}
