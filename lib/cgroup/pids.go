// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Pids gives the processes (not threads) in the cgroup and the cgroups below it, in any hierarchy,
// each once, in ascending order. A cgroup that does not exist has none. Processes of a foreign pid
// namespace have no number here and are left out; [Populated] counts them.
func Pids(path string) ([]int, error) {
	t, err := open(path)
	if err != nil {
		return nil, err
	}
	pids, err := t.pids(path)
	if err != nil {
		return nil, fmt.Errorf("list processes of cgroup %q: %w", path, err)
	}
	if len(pids) > 0 && pids[0] == 0 {
		pids = pids[1:]
	}
	return pids, nil
}

// Processes counts the processes in the cgroup and the cgroups below it, as one hierarchy that has it tells. A cgroup that does not exist
// has none.
func Processes(path string) (int, error) {
	t, err := open(path)
	if err != nil {
		return 0, err
	}
	has := slices.IndexFunc(t, func(h hierarchy) bool { return tree{h}.exists(path) })
	if has < 0 {
		return 0, nil
	}
	n := 0
	err = walk(filepath.Join(t[has].dir, path), func(dir string) error {
		text, err := read(dir, "cgroup.procs")
		n += len(strings.Fields(text))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count processes of cgroup %q: %w", path, err)
	}
	return n, nil
}

// pids is Pids with 0 standing for all the processes that have no number here.
func (t tree) pids(path string) ([]int, error) {
	var all []int
	for _, dir := range t.dirs(path) {
		err := walk(dir, func(dir string) error {
			text, err := read(dir, "cgroup.procs")
			if err != nil {
				return err
			}
			for line := range strings.FieldsSeq(text) {
				pid, err := strconv.Atoi(line)
				if err != nil {
					return fmt.Errorf("%s/cgroup.procs: %w", dir, err)
				}
				all = append(all, pid)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Populated says whether any process, of whatever pid namespace, is in the cgroup or below it.
func Populated(path string) (bool, error) {
	t, err := open(path)
	if err != nil {
		return false, err
	}
	pids, err := t.pids(path)
	if err != nil {
		return false, fmt.Errorf("look for processes of cgroup %q: %w", path, err)
	}
	return len(pids) > 0, nil
}

const (
	// killFor bounds Kill: what SIGKILL has not ended by then sits in the kernel (D state).
	killFor = 10 * time.Second
	// killBatch bounds the descriptors that Kill has open at one moment.
	killBatch = 256
)

// Kill sends SIGKILL to every process in the cgroup and below it until none is left, also when they
// fork meanwhile, and thaws what is frozen, since a process frozen by the v1 freezer cannot die. It
// waits at most ten seconds; then the error (context.DeadlineExceeded) names the processes that
// stay. The cgroup itself stays. Killing the cgroup of the calling process is refused
// (errdefs.ErrFailedPrecondition).
func Kill(path string) error {
	t, err := open(path)
	if err != nil {
		return err
	}
	if err := t.kill(path, killFor); err != nil {
		return fmt.Errorf("kill cgroup %q: %w", path, err)
	}
	return nil
}

func (t tree) kill(path string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for pause := 500 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		pids, err := t.pids(path)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		if slices.Contains(pids, os.Getpid()) {
			return fmt.Errorf("process %d, which asks for it, is in it: %w", os.Getpid(), errdefs.ErrFailedPrecondition)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v these are still there: %s: %w", limit, describe(pids), context.DeadlineExceeded)
		}
		if err := t.killOnce(path, pids); err != nil {
			return err
		}
		// After the signal, so that nothing that is thawed runs on.
		if err := t.thaw(path); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

// killOnce signals everything that is there now. cgroup.kill is atomic against forks but sees the v2
// hierarchy alone: a process that was moved out of it in a hybrid host is signalled by number.
func (t tree) killOnce(path string, pids []int) error {
	if dir := t.v2(path); dir != "" {
		err := write(dir, "cgroup.kill", "1")
		if err == nil {
			if pids, err = t.pids(path); err != nil {
				return err
			}
		} else if !gone(err) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	for batch := range slices.Chunk(pids, killBatch) {
		if err := t.signal(path, batch); err != nil {
			return err
		}
	}
	return nil
}

// signal sends SIGKILL to those of pids that are in the cgroup. A number that is still listed after
// its pidfd was opened makes the pidfd that of a member, or of a process that is dead: a process
// that was given a freed number is never hit.
func (t tree) signal(path string, pids []int) error {
	fds := make(map[int]int, len(pids))
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		if pid == 0 {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open process %d: %w", pid, err)
		}
		fds[pid] = fd
	}
	now, err := t.pids(path)
	if err != nil {
		return err
	}
	for pid, fd := range fds {
		if _, ok := slices.BinarySearch(now, pid); !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}

// describe names processes for an error: number, command, state, and no more than a few of them.
func describe(pids []int) string {
	const most = 8
	var names []string
	for i, pid := range pids {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(pids)-most))
			break
		}
		if pid == 0 {
			names = append(names, "processes of another pid namespace")
			continue
		}
		names = append(names, strconv.Itoa(pid)+commandOf(pid))
	}
	return strings.Join(names, ", ")
}

// commandOf reads " (comm) S" from proc_pid_stat(5); "" when the process is gone.
func commandOf(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	s := string(b)
	from, to := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if from < 0 || to < from || len(s) < to+3 {
		return ""
	}
	return fmt.Sprintf(" (%q, state %c)", s[from+1:to], s[to+2])
}
