// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// sweepAfter is how old the file of a killed holder must be: one that is being taken and let go at this
// moment is younger, and its next holder must not find it busy because of a sweep.
const sweepAfter = 10 * time.Second

// Sweep removes the lock files that holders left behind when they were killed, and tells how many. It
// takes each lock for the moment of the removal, and leaves those that are held, or were ten seconds ago. The
// files of collect and database locks stay: see Release.
func (d Dir) Sweep() (n int, err error) {
	var errs []error
	for rank := Pod; rank < Collect; rank++ {
		entries, err := os.ReadDir(filepath.Join(d.Path, rank.String()))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			removed, err := sweep(filepath.Join(d.Path, rank.String(), e.Name()))
			if err != nil {
				errs = append(errs, err)
			}
			if removed {
				n++
			}
		}
	}
	return n, errors.Join(errs...)
}

func sweep(path string) (removed bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, unlessGone(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || time.Since(st.ModTime()) < sweepAfter {
		return false, err
	}
	err = flockRetry(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "flock", Path: path, Err: err}
	}
	// Who waits for the file that goes makes it anew: see try.
	if sameFile(f, path) {
		err = unlessGone(os.Remove(path))
		removed = err == nil
	}
	return removed, errors.Join(err, flockRetry(f, unix.LOCK_UN))
}

func unlessGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
