// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ours marks a cgroup that goes when it is empty: [Make] has made it on the way to another, or [Start] for a process.
// Both versions of cgroups take attributes that only the privileged can set.
const ours = "trusted.ctrd"

// mark sets ours. Where it cannot be set, the cgroup stays when it is empty: no more is lost.
func mark(dir string) { _ = unix.Setxattr(dir, ours, []byte("1"), 0) }

func marked(dir string) bool {
	n, err := unix.Getxattr(dir, ours, nil)
	return err == nil && n > 0
}

// makeTries bounds how often a cgroup above may vanish while one below it is made.
const makeTries = 100

// Make makes the cgroup in every hierarchy, without limits and ready to take processes; one that exists is left
// as it is. Cgroups above it are made as needed, and marked: the [Remove] that leaves one empty removes it, too.
// A kill may leave some of it made.
func Make(path string) error {
	t, err := open(path)
	if err != nil {
		return err
	}
	if err := t.make(path); err != nil {
		return fmt.Errorf("make cgroup %q: %w", path, err)
	}
	return nil
}

func (t tree) make(path string) error {
	for _, h := range t {
		if err := h.make(path, false); err != nil {
			return err
		}
	}
	return nil
}

// make makes the cgroup in one hierarchy. A passing one goes when it is empty, like those on the way to it.
func (h hierarchy) make(path string, passing bool) error {
	err := h.makeOnce(path, passing)
	for n := 0; n < makeTries && gone(err); n++ {
		err = h.makeOnce(path, passing) // a removal took a cgroup above
	}
	return err
}

func (h hierarchy) makeOnce(path string, passing bool) error {
	dir := filepath.Join(h.dir, path)
	err := mkdir(dir)
	if errors.Is(err, unix.ENOENT) {
		if err = h.makeParents(path); err == nil {
			err = mkdir(dir)
		}
	}
	if err == nil && passing {
		mark(dir)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if slices.Contains(h.controllers, "cpuset") {
		return h.fill(path)
	}
	return nil
}

func (h hierarchy) makeParents(path string) error {
	for _, p := range above(path) {
		dir := filepath.Join(h.dir, p)
		switch err := mkdir(dir); {
		case errors.Is(err, unix.EEXIST):
		case err != nil:
			return err
		default:
			mark(dir)
		}
	}
	return nil
}

func mkdir(dir string) error {
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return nil
}

// fill gives a cgroup and those above it the processors and memory nodes of the one above each, where they have
// none: a v1 cpuset takes no process before it has both.
func (h hierarchy) fill(path string) error {
	for _, p := range append(above(path), path) {
		dir := filepath.Join(h.dir, p)
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			text, err := read(dir, name)
			if err != nil || strings.TrimSpace(text) != "" {
				continue
			}
			if text, err = read(filepath.Dir(dir), name); err != nil {
				return err
			}
			if err := write(dir, name, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// above gives the cgroups above a path, but for the root, the highest first.
func above(path string) []string {
	var list []string
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			list = append(list, path[:i])
		}
	}
	return list
}

// trim removes the cgroups above a path that Make has marked and that have become empty.
func (t tree) trim(path string) error {
	var errs []error
	for _, h := range t {
		for _, p := range slices.Backward(above(path)) {
			dir := filepath.Join(h.dir, p)
			if !marked(dir) {
				break
			}
			if err := rmdir(dir); errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
				break
			} else if err != nil {
				errs = append(errs, err)
				break
			}
		}
	}
	return errors.Join(errs...)
}
