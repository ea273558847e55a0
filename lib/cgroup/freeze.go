// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Freeze stops every process of the cgroup and below it, and returns when all of them stand still. The
// v1 freezer is used where the cgroup is in one (as libcontainer does on a hybrid host, so that both
// see the same state), else cgroup.freeze of v2. When ctx ends first, the cgroup is thawed again and
// the error is that of ctx; without an earlier end it has ten seconds. No freezer is errdefs.ErrNotImplemented.
func Freeze(ctx context.Context, path string) error {
	t, err := open(path)
	if err != nil {
		return err
	}
	if !t.exists(path) {
		return fmt.Errorf("freeze cgroup %q: %w", path, errdefs.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, freezeFor)
	defer cancel()
	if err := t.freeze(ctx, path); err != nil {
		return fmt.Errorf("freeze cgroup %q: %w", path, err)
	}
	return nil
}

// freezeFor bounds Freeze: a process that sits in the kernel may never freeze.
const freezeFor = 10 * time.Second

// thawEvery is how many steps of a freeze may fail before everything is thawed and frozen anew.
const thawEvery = 20

func (t tree) freeze(ctx context.Context, path string) (err error) {
	defer func() {
		if err != nil {
			// Half frozen is worse than running.
			err = errors.Join(err, t.thaw(path))
		}
	}()
	step := t.freezeV1
	if state, err := read(t.v1("freezer", path), "freezer.state"); err != nil {
		return err
	} else if state == "" {
		step = t.freezeV2
	}
	for i, pause := 1, 100*time.Microsecond; ; i, pause = i+1, min(2*pause, 10*time.Millisecond) {
		if done, err := step(path); err != nil || done {
			return err
		}
		// A thread in the middle of execve waits for its siblings to die, which they do not while they
		// are frozen: it never freezes. Let them go on for a moment.
		if i%thawEvery == 0 {
			if err := t.thaw(path); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// freezeV1 writes FROZEN in every step: a v1 freezer that met a fork stays FREEZING until it is told
// again.
func (t tree) freezeV1(path string) (bool, error) {
	dir := t.v1("freezer", path)
	if err := write(dir, "freezer.state", "FROZEN"); err != nil {
		return false, absent(err)
	}
	state, err := read(dir, "freezer.state")
	return state == "FROZEN", err
}

func (t tree) freezeV2(path string) (bool, error) {
	dir := t.v2(path)
	if dir == "" {
		return false, fmt.Errorf("no freezer is mounted: %w", errdefs.ErrNotImplemented)
	}
	if err := write(dir, "cgroup.freeze", "1"); err != nil {
		if gone(err) && t.exists(path) {
			return false, fmt.Errorf("the kernel has no cgroup.freeze: %w", errdefs.ErrNotImplemented)
		}
		return false, absent(err)
	}
	events, err := read(dir, "cgroup.events")
	return keyed(events, "frozen") == 1, err
}

// absent makes a vanished cgroup errdefs.ErrNotFound.
func absent(err error) error {
	if gone(err) {
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	return err
}

// Thaw lets the processes of the cgroup run again. What is not frozen, or not there, is done.
// Processes stay frozen while a cgroup above is.
func Thaw(path string) error {
	t, err := open(path)
	if err != nil {
		return err
	}
	if err := t.thaw(path); err != nil {
		return fmt.Errorf("thaw cgroup %q: %w", path, err)
	}
	return nil
}

func (t tree) thaw(path string) error {
	var errs []error
	if dir := t.v1("freezer", path); dir != "" {
		if err := write(dir, "freezer.state", "THAWED"); err != nil && !gone(err) {
			errs = append(errs, err)
		}
	}
	if dir := t.v2(path); dir != "" {
		if err := write(dir, "cgroup.freeze", "0"); err != nil && !gone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Frozen says whether freezing was asked of this cgroup, by anyone, and not undone. After [Freeze]
// returned, its processes stand still; a Freeze that was killed half-way is also true, so that it
// shows and can be thawed. A freeze of a cgroup above does not count.
func Frozen(path string) (bool, error) {
	t, err := open(path)
	if err != nil {
		return false, err
	}
	if !t.exists(path) {
		return false, fmt.Errorf("look at freezer of cgroup %q: %w", path, errdefs.ErrNotFound)
	}
	frozen, err := t.frozen(path)
	if err != nil {
		return false, fmt.Errorf("look at freezer of cgroup %q: %w", path, err)
	}
	return frozen, nil
}

func (t tree) frozen(path string) (bool, error) {
	self, err := read(t.v1("freezer", path), "freezer.self_freezing")
	if err != nil || self == "1" {
		return self == "1", err
	}
	self, err = read(t.v2(path), "cgroup.freeze")
	return strings.TrimSpace(self) == "1", err
}
