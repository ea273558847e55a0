// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// pinTime bounds how long the namespaces of a pod may take to be made.
var pinTime = 30 * time.Second

// startPod makes the namespaces of a pod, which this supervisor keeps until it ends, and listens. The supervisor has the
// pod as its sandbox from the first moment on.
func (s *server) startPod(pod taskdir.Pod) (_ net.Listener, err error) {
	dir := s.config.Bundle
	held, err := lock.Hold(filepath.Join(dir, taskdir.ShimLock))
	if err != nil {
		return nil, err
	}
	s.podLock = held // for as long as the process lives
	s.watchChildren()
	s.sandbox = &sandbox{id: pod.ID, started: true, done: make(chan struct{}), created: time.Now().UTC()}
	self, err := taskdir.ProcessOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	pinned := taskdir.Pinned{Supervisor: self, Paths: map[string]string{}}
	if len(pod.Namespaces) > 0 {
		if err := s.pin(pod, &pinned); err != nil {
			return nil, fmt.Errorf("namespaces of the pod: %w", err)
		}
	}
	if err := taskdir.Write(dir, taskdir.PodPinned, pinned); err != nil {
		return nil, err
	}
	crash.Point("shim.pod-pinned")
	if err := os.MkdirAll(filepath.Dir(s.config.Socket), 0o700); err != nil {
		return nil, err
	}
	l, err := taskapi.Listen("unix://" + s.config.Socket)
	if err != nil {
		return nil, err
	}
	err = taskdir.Write(dir, taskdir.Shim, taskdir.Supervisor{Process: self, Address: "unix://" + s.config.Socket, Version: Version})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	go s.watchMaker()
	return l, nil
}

// pin has a child make the namespaces, and opens them. The child ends unless it is the first process of a PID namespace.
func (s *server) pin(pod taskdir.Pod, pinned *taskdir.Pinned) error {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	said, w, err := os.Pipe()
	if err != nil {
		return errors.Join(err, ours.Close())
	}
	defer said.Close()
	pid, gone, err := s.startPin(pod, theirs, w)
	w.Close()
	if err == nil {
		said.SetReadDeadline(time.Now().Add(pinTime))
		err = pinAnswer(said, pod.Has(taskdir.PIDNS))
	}
	if err == nil {
		err = s.openPinned(pod, pid, pinned)
	}
	if err != nil || !pod.Has(taskdir.PIDNS) {
		ours.Close() // the child ends
		if gone != nil {
			s.endPin(pid)
			<-gone
		}
		return err
	}
	// It lives as long as our end of the pipe is open.
	pinned.Init = pid
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.helpers[pid] == nil {
		return errors.Join(errors.New("the first process of the pod has ended"), ours.Close())
	}
	delete(s.helpers, pid)
	s.podInit, s.podPipe = pid, ours
	return nil
}

// endPin kills the child, which has nothing more to do: it may be stopped, or not come to where it would see that it is to end.
func (s *server) endPin(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.helpers[pid] != nil {
		unix.Kill(pid, unix.SIGKILL)
	}
}

// startPin starts the child in new namespaces, which it finishes: see lib/pid1. It lives as long as the other end of life is open.
func (s *server) startPin(pod taskdir.Pod, life, answer *os.File) (pid int, gone chan struct{}, err error) {
	attr := &syscall.SysProcAttr{Setsid: true}
	for kind, flag := range map[string]uintptr{
		taskdir.NetNS: unix.CLONE_NEWNET, taskdir.IPCNS: unix.CLONE_NEWIPC, taskdir.UTSNS: unix.CLONE_NEWUTS,
		taskdir.PIDNS: unix.CLONE_NEWPID | unix.CLONE_NEWNS, taskdir.UserNS: unix.CLONE_NEWUSER,
	} {
		if pod.Has(kind) {
			attr.Cloneflags |= flag
		}
	}
	if pod.Has(taskdir.UserNS) {
		for _, m := range pod.UIDs {
			attr.UidMappings = append(attr.UidMappings, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
		}
		for _, m := range pod.GIDs {
			attr.GidMappings = append(attr.GidMappings, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
		}
		attr.GidMappingsEnableSetgroups = true
		attr.Credential = new(syscall.Credential)
	}
	var kinds, hostname string
	if pod.Has(taskdir.NetNS) {
		kinds += "n"
	}
	if pod.Has(taskdir.PIDNS) {
		kinds += "p"
	}
	if pod.Has(taskdir.UTSNS) {
		hostname = pod.Hostname
	}
	args := []string{"ctr-shim", "pid1", "pin", kinds, hostname}
	for _, name := range slices.Sorted(maps.Keys(pod.Sysctls)) {
		args = append(args, name, pod.Sysctls[name])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err = syscall.ForkExec("/proc/self/exe", args, &syscall.ProcAttr{
		Dir: "/", Files: []uintptr{0, 2, 2, life.Fd(), answer.Fd()}, Sys: attr,
	})
	if err != nil {
		return 0, nil, fmt.Errorf("start a process in new namespaces: %w", err)
	}
	gone = make(chan struct{})
	s.helpers[pid] = gone
	return pid, gone, nil
}

// pinAnswer reads what the child says: a line "ok", or what went wrong. With whole it is read until the child closes the pipe,
// which it does when it has become the first process.
func pinAnswer(r io.Reader, whole bool) error {
	const longest = 4 << 10
	r = io.LimitReader(r, longest)
	var said string
	var err error
	if whole {
		var all []byte
		all, err = io.ReadAll(r)
		said = string(all)
	} else {
		said, err = bufio.NewReader(r).ReadString('\n')
	}
	said, ok := strings.CutPrefix(said, "ok\n")
	switch said = strings.TrimSpace(said); {
	case said != "":
		return errors.New(said)
	case !ok:
		return errors.Join(errors.New("its process ended without a word"), err)
	}
	return nil
}

// openPinned opens the namespaces of the child, so that they stay when it ends.
func (s *server) openPinned(pod taskdir.Pod, pid int, p *taskdir.Pinned) error {
	for _, kind := range pod.Namespaces {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open namespace %s: %w", kind, err)
		}
		p.Paths[kind] = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	}
	return nil
}

// makerAway is how long a pod that is not whole waits for somebody to go on with it when its maker has died.
const makerAway = 5 * time.Second

// watchMaker ends a pod whose maker died before the pod was whole, and with which nobody goes on. It takes the lock of makers
// before, so that nobody does from then on.
func (s *server) watchMaker() {
	dir := s.config.Bundle
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for alone := time.Duration(0); ; alone += watchEvery {
		select {
		case <-s.life.Done():
			return
		case <-tick.C:
		}
		_, err := os.Lstat(filepath.Join(dir, taskdir.PodReady))
		if err == nil {
			return
		}
		path := filepath.Join(dir, taskdir.StartLock)
		if held, err := lock.IsHeld(path); held || err != nil {
			alone = 0
			continue
		}
		if alone < makerAway {
			continue
		}
		making, err := lock.Hold(path)
		if err != nil {
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, taskdir.PodReady)); err == nil {
			making.Release()
			return
		}
		s.lastLock = making // for as long as the process lives
		s.abandon("the maker of the pod died")
		return
	}
}
