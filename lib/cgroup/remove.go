// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// removeFor bounds Remove: a process that was just reaped is counted for a few milliseconds more.
const removeFor = 2 * time.Second

// Remove removes the cgroup and every cgroup below it from all hierarchies, then the cgroups above it that
// [Make] made and that are empty. What is absent is done. A cgroup that stays busy for two seconds is
// errdefs.ErrFailedPrecondition, and the error names the processes; the other hierarchies are cleared all the same.
func Remove(path string) error {
	t, err := open(path)
	if err != nil {
		return err
	}
	if err := t.remove(path, removeFor); err != nil {
		return fmt.Errorf("remove cgroup %q: %w", path, err)
	}
	return nil
}

func (t tree) remove(path string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var errs []error
		busy := false
		for _, dir := range t.dirs(path) {
			if err := removeTree(dir); errors.Is(err, unix.EBUSY) {
				busy = true
			} else if err != nil {
				errs = append(errs, err)
			}
		}
		if !busy {
			return errors.Join(append(errs, t.trim(path))...)
		}
		if time.Now().After(deadline) {
			return errors.Join(append(errs, t.busy(path))...)
		}
		time.Sleep(pause)
	}
}

// removeTree is rmdir, children first only when the kernel says that there may be some.
func removeTree(dir string) error {
	if err := rmdir(dir); !errors.Is(err, unix.EBUSY) {
		return err
	}
	return walk(dir, rmdir)
}

func rmdir(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || gone(err) {
		return nil
	}
	return fmt.Errorf("rmdir %s: %w", dir, err)
}

// busy says why the cgroup cannot be removed.
func (t tree) busy(path string) error {
	pids, err := t.pids(path)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("the kernel says busy, though no process is in it: %w", errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("in use by %s: %w", describe(pids), errdefs.ErrFailedPrecondition)
}
