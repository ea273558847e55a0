// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"context"
	"crypto/rand"
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

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// Request is what Activate is asked for.
type Request struct {
	Name   string
	Mounts []mount.Mount
	Labels map[string]string
	Lease  string // that keeps it; empty: none
	// Container is the uid of the container whose task has it for its root; empty: a client's own.
	Container string
	// Temporary has all mounted; what is left to the caller is a bind mount of the last.
	Temporary bool
}

// loopType is the type of a mount that is a loop device.
const loopType = "loop"

// plan is what of a list is mounted here.
type plan struct {
	transforms [][]string // of each mount, the outermost first
	kinds      []string   // of each mount, its type without them
	first      int        // index of the first mount that is left to the caller; -1: nothing is to be done here
}

// makePlan finds out which mounts must be made here: those before one that has a transformer, and a loop device.
func makePlan(r Request) plan {
	p := plan{first: -1}
	for i, m := range r.Mounts {
		var chain []string
		kind := m.Type
		for {
			name, rest, ok := strings.Cut(kind, "/")
			if _, known := transformers[name]; !ok || !known {
				break
			}
			chain, kind = append(chain, name), rest
			p.first = i
		}
		if kind == loopType || r.Temporary {
			p.first = i + 1
		}
		p.transforms, p.kinds = append(p.transforms, chain), append(p.kinds, kind)
	}
	return p
}

// Activate mounts what a caller cannot. Where there is no such thing it is errdefs.ErrNotImplemented: the caller mounts all. A
// name that is taken is errdefs.ErrAlreadyExists, a lease that is not there errdefs.ErrNotFound.
func Activate(ctx context.Context, d *state.Dir, ns string, r Request) (Activation, error) {
	a, held, err := Begin(ctx, d, ns, r)
	if err != nil {
		return a, err
	}
	return a, held.Remove()
}

// Begin is [Activate] for a caller who is about to use the mounts: until held is removed, [Live] tells that he is.
func Begin(ctx context.Context, d *state.Dir, ns string, r Request) (a Activation, held *lock.Held, err error) {
	a = r.record(rand.Text())
	if err := r.check(); err != nil {
		return a, nil, err
	}
	p := makePlan(r)
	if p.first < 0 {
		return a, nil, fmt.Errorf("mounts %q: there is nothing that the caller cannot mount: %w", r.Name, errdefs.ErrNotImplemented)
	}
	if err := d.View(ctx, func(tx *state.Tx) error { return r.admit(tx, ns, &a) }); err != nil {
		return a, nil, err
	}
	held, err = begin(ctx, d, a.ID)
	if err != nil {
		return a, nil, fmt.Errorf("mounts %q: %w", r.Name, err)
	}
	crash.Point("activation.begun")
	if err = a.mount(ctx, d, r, p); err == nil {
		err = d.UpdateRun(ctx, nil, func(tx *state.Tx) error {
			if err := r.admit(tx, ns, &a); err != nil {
				return err
			}
			return put(tx, ns, a)
		})
	}
	if err != nil {
		err = errors.Join(err, Drop(d, a.ID))
		d.EmptyTrash()
		return a, nil, errors.Join(fmt.Errorf("mounts %q: %w", r.Name, err), held.Release())
	}
	crash.Point("activation.recorded")
	return a, held, nil
}

// admit looks whether the name is free and the lease is there.
func (r Request) admit(tx *state.Tx, ns string, a *Activation) error {
	_, err := Get(tx, ns, r.Name)
	if err == nil || state.IsRecordError(err) {
		return fmt.Errorf("mounts %q in namespace %q: %w", r.Name, ns, errdefs.ErrAlreadyExists)
	}
	if !errdefs.IsNotFound(err) || r.Lease == "" {
		return unlessNotFound(err)
	}
	l, err := lease.Get(tx, ns, r.Lease)
	a.LeaseUID = l.UID
	return err
}

func unlessNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// begin makes the directory, with the lock held that says that it is not garbage.
func begin(ctx context.Context, d *state.Dir, id string) (held *lock.Held, err error) {
	l, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Shared)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if err := os.MkdirAll(dirOf(d, id), 0o700); err != nil {
		return nil, err
	}
	return lock.Hold(filepath.Join(dirOf(d, id), "lock"))
}

// mount makes the mounts of a plan, and says what is left.
func (a *Activation) mount(ctx context.Context, d *state.Dir, r Request, p plan) error {
	t := transform{roots: []string{d.Path(), d.Run()}}
	mounts := slices.Clone(r.Mounts)
	for i := range mounts {
		if i > p.first {
			break
		}
		for _, name := range p.transforms[i] {
			var err error
			if mounts[i], err = transformers[name](ctx, t, mounts[i], a.Active); err != nil {
				return fmt.Errorf("mount %d: %s: %w", i, name, err)
			}
		}
		mounts[i].Type = p.kinds[i]
		if i == p.first {
			break
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		point := filepath.Join(dirOf(d, a.ID), fmt.Sprintf("%03d", i))
		if err := place(mounts[i], point, loopName(a.ID, i)); err != nil {
			return fmt.Errorf("mount %d: %w", i, err)
		}
		a.Active = append(a.Active, Active{mounts[i], point, time.Now().UTC()})
		crash.Point("activation.mounted")
	}
	a.System = mounts[p.first:]
	if r.Temporary {
		a.System = []mount.Mount{{Type: "bind", Source: a.Active[len(a.Active)-1].Point, Options: []string{"rbind"}}}
	}
	return nil
}

// loopName is how the kernel knows a loop device as the nth mount of an activation.
func loopName(id string, n int) string { return "ctrd-" + id + "-" + strconv.Itoa(n) }

// place mounts one mount at a point that is to be made.
func place(m mount.Mount, point, name string) error {
	if m.Type != loopType {
		if err := os.Mkdir(point, 0o700); err != nil {
			return err
		}
		return mount.All([]mount.Mount{m}, point)
	}
	l, err := mount.OpenLoop(m.Source, slices.Contains(m.Options, "ro"), name)
	if err != nil {
		return err
	}
	// The link is there before the device outlives this process.
	err = os.Symlink(l.Path(), point)
	if err == nil {
		crash.Point("activation.linked")
		err = l.Keep()
	}
	return errors.Join(err, l.Close())
}

// Deactivate removes the activation that has a name, and unmounts what it has mounted; who uses a mount still keeps its file system
// until he lets it go. One that is not there is errdefs.ErrNotFound.
func Deactivate(ctx context.Context, d *state.Dir, ns, name string) error {
	return deactivate(ctx, d, ns, name, func(Activation) bool { return true })
}

// End is [Deactivate] of this activation: another one that has its name by now stays, and End gives errdefs.ErrNotFound.
func (a Activation) End(ctx context.Context, d *state.Dir, ns string) error {
	return deactivate(ctx, d, ns, a.Name, func(now Activation) bool { return now.ID == a.ID })
}

func deactivate(ctx context.Context, d *state.Dir, ns, name string, meant func(Activation) bool) error {
	var a Activation
	err := d.UpdateRun(ctx, nil, func(tx *state.Tx) (err error) {
		if a, err = Get(tx, ns, name); err != nil && !state.IsRecordError(err) {
			return err
		}
		if !meant(a) {
			return fmt.Errorf("mounts %q in namespace %q: another has the name: %w", name, ns, errdefs.ErrNotFound)
		}
		return Forget(tx, ns, name)
	})
	if err != nil || a.ID == "" { // of a damaged record, the directory is garbage
		return err
	}
	crash.Point("activation.forgotten")
	err = Drop(d, a.ID)
	d.EmptyTrash()
	return err
}

// Drop unmounts what is mounted in a directory, the last first, and moves the directory to the trash. What is not there is
// dropped already.
func Drop(d *state.Dir, id string) error {
	dir := dirOf(d, id)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(entries) { // in the order of names
		point := filepath.Join(dir, e.Name())
		switch {
		case e.Type()&os.ModeSymlink != 0:
			n, _ := strconv.Atoi(e.Name())
			device, rerr := os.Readlink(point)
			if rerr == nil {
				rerr = mount.ReleaseLoop(device, loopName(id, n))
			}
			err = errors.Join(err, rerr)
		case e.Name() != "lock":
			err = errors.Join(err, mount.Unmount(point, unix.MNT_DETACH))
		}
	}
	if err != nil {
		return err
	}
	crash.Point("activation.unmounted")
	return d.Trash(dir)
}
