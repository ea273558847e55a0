// SPDX-License-Identifier: Apache-2.0

package world

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Site is what the tests of a package run with.
type Site struct {
	Top      string // of the source tree
	Bin      string // the commands: bin, or what CTRD_E2E_BIN names
	Registry string // address of a registry with the images of scripts/mkimages
}

// Main is TestMain of a package below test, and gives the status to exit with. As root it serves the images, calls begin
// and runs the tests; another user tests nothing. Before that it removes the worlds of tests that were cut off. After it
// wants nothing to be left of any world, however the tests went.
func Main(m *testing.M, begin func(Site) error) int {
	status, err := run(m, begin)
	if err != nil {
		dir, _ := os.Getwd()
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(dir), err)
		return max(1, status)
	}
	return status
}

func run(m *testing.M, begin func(Site) error) (status int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("not root, nothing is tested")
	}
	if err := Sweep(); err != nil {
		return 1, fmt.Errorf("remove what tests that were cut off have left: %w", err)
	}
	var s Site
	if s.Top, err = filepath.Abs("../.."); err != nil {
		return 1, err
	}
	s.Bin = filepath.Join(s.Top, "bin")
	if dir := os.Getenv("CTRD_E2E_BIN"); dir != "" {
		if s.Bin, err = filepath.Abs(dir); err != nil {
			return 1, err
		}
	}
	address, stop, err := Registry(s.Top)
	if err != nil {
		return 1, err
	}
	defer stop()
	s.Registry = address
	if err := begin(s); err != nil {
		return 1, err
	}
	status = m.Run()
	return status, made.gone()
}

// worlds are those that this process has made.
type worlds struct {
	sync.Mutex
	all []*World
}

var made worlds

func (w *worlds) add(one *World) {
	w.Lock()
	defer w.Unlock()
	w.all = append(w.all, one)
}

// gone wants nothing to be there of any of them.
func (w *worlds) gone() error {
	var errs []error
	m := look()
	for _, one := range w.all {
		if len(m.of(one)) > 0 {
			for _, l := range one.Leaks() {
				errs = append(errs, fmt.Errorf("left behind: %s", l))
			}
		}
		if _, err := os.Lstat(one.Dir); err == nil {
			errs = append(errs, fmt.Errorf("left behind: %s", one.Dir))
		}
	}
	return errors.Join(errs...)
}

// claimName is a file of a world that its test has locked: the lock goes with the process, however that ends.
const claimName = "claim"

// claim makes and locks that file. It has its name when it is locked, and not before.
func (w *World) claim() (*os.File, error) {
	path := filepath.Join(w.Dir, claimName)
	f, err := os.Create(path + ".new")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_EX), os.Rename(path+".new", path)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Sweep ends and removes the worlds whose test has died: it was killed, or ran into the time limit of go test.
func Sweep() error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, dir := range dirs {
		f, e := os.Open(filepath.Join(dir, claimName))
		if e != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			err = errors.Join(err, in(dir, "").destroy())
		}
		f.Close()
	}
	return err
}
