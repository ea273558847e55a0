// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Start starts a command outside of the caller's cgroup: nothing done to that reaches the process. In each hierarchy in
// which the caller is not in the root cgroup, to which nobody can do anything, the process is a member of the cgroup with the
// given path from its first instruction on; Start makes it when it is not there. Where the caller may not change a
// hierarchy, the process stays in the caller's cgroup there. It costs a fraction of a millisecond; before Linux 5.7 the process is moved in the v2 hierarchy after its start, which costs more. The command must have no
// Pdeathsig: the thread that starts it ends.
//
// Processes may share the cgroup. [RemoveEmpty] removes it behind the last one.
func Start(cmd *exec.Cmd, path string) error {
	t, err := open(path)
	if err != nil {
		return err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("find our own cgroup: %w", err)
	}
	if t = t.confining(string(own)); len(t) == 0 {
		return cmd.Start()
	}
	return t.startNamed(cmd, path)
}

// confining gives the hierarchies in which a process, whose file /proc/PID/cgroup is own, is not in the root cgroup. The v2
// root of a container is no such root: processes in it keep controllers from the cgroups below.
func (t tree) confining(own string) tree {
	return slices.DeleteFunc(slices.Clone(t), func(h hierarchy) bool {
		path, ok := membership(own, h.name())
		return ok && path == "/" && (!h.v2 || isV2Root(h.dir))
	})
}

// isV2Root tells the real root of the v2 hierarchy, which has no type, from all other cgroups.
func isV2Root(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "cgroup.type"))
	return errors.Is(err, os.ErrNotExist)
}

// StartIn is [Start] in every hierarchy that the caller may change, also where the caller is in the root cgroup.
func StartIn(cmd *exec.Cmd, path string) error {
	t, err := open(path)
	if err != nil {
		return err
	}
	return t.startNamed(cmd, path)
}

func (t tree) startNamed(cmd *exec.Cmd, path string) error {
	if err := t.start(cmd, path); err != nil {
		return fmt.Errorf("start %s in cgroup %q: %w", filepath.Base(cmd.Path), path, err)
	}
	return nil
}

func (t tree) start(cmd *exec.Cmd, path string) error {
	placing.RLock()
	defer placing.RUnlock()
	return onThread(func() error {
		fd, err := t.enter(path)
		for n := 0; n < makeTries && again(err); n++ {
			fd, err = t.enter(path) // a removal was quicker
		}
		if err != nil {
			return err
		}
		if fd < 0 {
			return cmd.Start()
		}
		defer unix.Close(fd)
		if !bornInto() {
			return t.startMove(cmd, path)
		}
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = new(syscall.SysProcAttr)
		}
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
		return cmd.Start()
	})
}

// bornInto says whether the kernel has CLONE_INTO_CGROUP: Linux 5.7.
var bornInto = sync.OnceValue(func() bool {
	var u unix.Utsname
	var major, minor int
	if unix.Uname(&u) != nil {
		return false
	}
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return err == nil && (major > 5 || major == 5 && minor >= 7)
})

// startMove starts a command and then moves it in the v2 hierarchy.
func (t tree) startMove(cmd *exec.Cmd, path string) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	err := write(t.v2(path), "cgroup.procs", strconv.Itoa(cmd.Process.Pid))
	if err != nil && !errors.Is(err, unix.ESRCH) && !forbidden(err) {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return nil
}

// enter makes the cgroup and moves the calling thread into it in the v1 hierarchies, where threads have cgroups of
// their own, which their children inherit. The kernel moves a thread that moves itself without the lock that
// makes other moves slow (see Hasten). fd is the directory of v2, into which a process can be born; it is locked, so
// that RemoveEmpty leaves it alone. Without such a hierarchy it is -1.
func (t tree) enter(path string) (fd int, err error) {
	fd = -1
	defer func() {
		if err != nil && fd >= 0 {
			unix.Close(fd)
		}
	}()
	// v2 first: behind its lock no removal is at work in the others.
	for _, v2 := range []bool{true, false} {
		for _, h := range t {
			if h.v2 != v2 {
				continue
			}
			dir := filepath.Join(h.dir, path)
			err := h.make(path, true)
			if err == nil && v2 {
				fd, err = pin(dir, unix.LOCK_SH, pinFor)
			} else if err == nil {
				err = write(dir, "tasks", "0")
			}
			if err != nil && !forbidden(err) {
				return fd, err
			}
		}
	}
	return fd, nil
}

// pinFor bounds how long a start and a removal wait for each other. Neither takes as long unless it is stopped.
const pinFor = 5 * time.Second

// pin opens a directory and takes a lock on it, LOCK_SH or LOCK_EX. When others do not let go within the limit it
// is unix.EWOULDBLOCK. A directory that was removed before the lock was there is fs.ErrNotExist.
func pin(dir string, how int, limit time.Duration) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	deadline := time.Now().Add(limit)
	for {
		err = unix.Flock(fd, how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	var opened, named unix.Stat_t
	if err == nil {
		err = errors.Join(unix.Fstat(fd, &opened), unix.Stat(dir, &named))
	}
	if err == nil && opened.Ino != named.Ino {
		err = unix.ENOENT
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	return fd, nil
}

// again says that a cgroup was removed, or removed and made anew, while somebody was about to join it: a v1 cpuset
// that has just been made takes nobody.
func again(err error) bool { return gone(err) || errors.Is(err, unix.ENOSPC) }

// forbidden says that the caller may not change a hierarchy, or nobody may.
func forbidden(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS)
}

// onThread runs fn on a thread that has ended, with whatever fn has done to it, when onThread returns. The runtime
// makes no other threads from a locked one.
func onThread(fn func() error) error {
	type end struct {
		tid int
		err error
	}
	ended := make(chan end, 1)
	go func() {
		runtime.LockOSThread()
		if tid := unix.Gettid(); tid != unix.Getpid() {
			ended <- end{tid, fn()}
			return // still locked: the thread ends with the goroutine
		}
		// The first thread of a process does not end before the process. While it is taken, there is another.
		defer runtime.UnlockOSThread()
		ended <- end{err: onThread(fn)}
	}()
	e := <-ended
	for n := 0; e.tid != 0 && n < threadTries && unix.Tgkill(unix.Getpid(), e.tid, 0) == nil; n++ {
		time.Sleep(50 * time.Microsecond)
	}
	return e.err
}

// threadTries bounds the wait for the end of a thread to a second or so.
const threadTries = 10_000

// Place moves a process that runs into the cgroup in every hierarchy, and makes the cgroup when it is not there.
// Where the caller may not change a hierarchy, the process stays where it is. It waits for the kernel, some
// ten milliseconds: for a process that is about to be started there is [Start]. A process that is gone is
// syscall.ESRCH.
func Place(pid int, path string) error {
	t, err := open(path)
	if err != nil {
		return err
	}
	if err := t.place(pid, path); err != nil {
		return fmt.Errorf("move process %d into cgroup %q: %w", pid, path, err)
	}
	return nil
}

func (t tree) place(pid int, path string) error {
	for _, h := range t {
		err := h.place(pid, path)
		for n := 0; n < makeTries && again(err); n++ {
			err = h.place(pid, path)
		}
		if err != nil && !forbidden(err) {
			return err
		}
	}
	return nil
}

func (h hierarchy) place(pid int, path string) error {
	if err := h.make(path, false); err != nil {
		return err
	}
	return write(filepath.Join(h.dir, path), "cgroup.procs", strconv.Itoa(pid))
}

// StartAbove calls start once, to start a process that is not in the cgroup that [Start] has given the caller, but in the
// one above, so that it can remove the former. start uses the attributes as they are and may add to them. A caller
// with no such cgroup starts the process where it is. It costs as little as Start.
func StartAbove(start func(*syscall.SysProcAttr) error) error {
	t, err := mounted()
	if err != nil {
		return start(new(syscall.SysProcAttr))
	}
	return t.startAbove(start)
}

func (t tree) startAbove(start func(*syscall.SysProcAttr) error) error {
	sys := new(syscall.SysProcAttr)
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return start(sys)
	}
	var tasks []string // directories above, in v1
	for _, h := range t {
		path, ok := membership(string(own), h.name())
		dir := filepath.Join(h.dir, path)
		switch {
		case !ok || path == "/" || !marked(dir):
		case !h.v2:
			tasks = append(tasks, filepath.Dir(dir))
		case bornInto() && takesProcesses(filepath.Dir(dir)):
			fd, err := unix.Open(filepath.Dir(dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err == nil {
				defer unix.Close(fd)
				sys.UseCgroupFD, sys.CgroupFD = true, fd
			}
		}
	}
	if len(tasks) == 0 {
		return start(sys)
	}
	placing.RLock()
	defer placing.RUnlock()
	return onThread(func() error {
		for _, dir := range tasks {
			_ = write(dir, "tasks", "0") // else it stays, and so does the cgroup
		}
		return start(sys)
	})
}

// takesProcesses says whether a v2 cgroup takes processes: the real root does, others while they give no controllers to
// those below.
func takesProcesses(dir string) bool {
	if isV2Root(dir) {
		return true
	}
	given, err := read(dir, "cgroup.subtree_control")
	return err == nil && strings.TrimSpace(given) == ""
}

// Leave moves the calling process out of the cgroup that [Start] started it in, to the one above, and removes the cgroup
// unless others are in it. One that was not started so, or was moved since, stays where it is. It waits for the
// kernel, some ten milliseconds in which no other process can change cgroups, and for what RemoveEmpty waits.
func Leave() error {
	t, err := mounted()
	if err != nil {
		return err
	}
	if err := t.leave(); err != nil {
		return fmt.Errorf("leave our own cgroup: %w", err)
	}
	return nil
}

func (t tree) leave() error {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	left := make(map[string]bool)
	for _, h := range t {
		path, ok := membership(string(own), h.name())
		dir := filepath.Join(h.dir, path)
		if !ok || path == "/" || !marked(dir) {
			continue
		}
		// Each of those that end at once is out before it looks whether any is in.
		if err := write(filepath.Dir(dir), "cgroup.procs", "0"); err == nil {
			left[path] = true
		}
	}
	var errs []error
	for path := range left {
		errs = append(errs, t.removeEmpty(path, removeFor))
	}
	return errors.Join(errs...)
}

// RemoveEmpty removes the cgroup from all hierarchies unless a process is in it or about to be started in it, or
// a cgroup is below it: then it stays, and a later call removes it. That is no error. It waits at most a few
// seconds, for processes that have just ended and for another removal.
func RemoveEmpty(path string) error {
	t, err := open(path)
	if err != nil {
		return err
	}
	if err := t.removeEmpty(path, removeFor); err != nil {
		return fmt.Errorf("remove cgroup %q: %w", path, err)
	}
	return nil
}

func (t tree) removeEmpty(path string, limit time.Duration) error {
	locked := false
	if dir := t.v2(path); dir != "" {
		fd, err := pin(dir, unix.LOCK_EX, pinFor)
		switch {
		case err == nil:
			defer unix.Close(fd)
			locked = true
		case errors.Is(err, unix.EWOULDBLOCK):
			return nil // a start, which takes no longer unless it is stopped
		case !gone(err):
			return err
		}
	}
	var errs []error
	deadline := time.Now().Add(limit)
	for _, h := range t {
		if h.v2 && !locked {
			continue // absent, or made anew
		}
		dir := filepath.Join(h.dir, path)
		err := rmdir(dir)
		for errors.Is(err, unix.EBUSY) && !inUse(dir) && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
			err = rmdir(dir)
		}
		if err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, t.trim(path))...)
}

// inUse says whether a cgroup has a process or a cgroup below it. One that has neither is busy only because the
// kernel has not yet forgotten a process that has ended.
func inUse(dir string) bool {
	procs, err := read(dir, "cgroup.procs")
	if err != nil || strings.TrimSpace(procs) != "" {
		return true
	}
	below, err := children(dir)
	if err != nil {
		return !gone(err)
	}
	return len(below) > 0
}
