// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"ctrd.dev/ctrd/lib/lock"
)

// GC tears down the attachments of the group that keep does not want, and takes away pins that have no attachment. Then
// it has the plugins that know how to (from version 1.1 of the specification on) collect what no attachment of any group
// has. keep is asked after an attachment was seen, so that one that is made meanwhile is spared if keep knows of it by
// then. All failures are joined; the rest is done all the same.
func (h Host) GC(ctx context.Context, outer *lock.Lock, keep func(Attachment) bool) error {
	var errs []error
	ids, err := h.ids(h.Group)
	errs = append(errs, err)
	pins, err := os.ReadDir(filepath.Join(h.Pins, h.Group))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, p := range pins {
		if checkID(p.Name()) == nil {
			ids = append(ids, p.Name())
		}
	}
	for _, id := range ids {
		a := Attachment{ID: id}
		r, ok, err := h.read(id)
		if err != nil {
			errs = append(errs, err) // it cannot be taken off without its record
			continue
		}
		if ok {
			a = h.attachment(r)
		}
		if !keep(a) {
			errs = append(errs, h.Teardown(ctx, outer, id))
		}
	}
	errs = append(errs, h.collect(ctx, outer))
	return errors.Join(errs...)
}

// collect asks the plugins to remove what no attachment has, of the networks that are configured.
func (h Host) collect(ctx context.Context, outer *lock.Lock) error {
	var errs []error
	all, _ := h.Networks()
	for _, n := range all {
		if n.list.DisableGC || !knows(n.Version, 1, 1) || h.checkPlugins(n) != nil {
			continue
		}
		l, err := h.lock(ctx, outer, n.Name)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		valid, err := h.valid(n.Name)
		if err == nil {
			err = libcni.NewCNIConfigWithCacheDir(h.bin(), filepath.Join(h.Kept, "none"), &plugins{held: l, bin: h.bin()}).
				GCNetworkList(ctx, n.list, &libcni.GCArgs{ValidAttachments: valid})
		}
		if err != nil {
			err = named(n.Name, err)
		}
		errs = append(errs, err, l.Release())
	}
	return errors.Join(errs...)
}

// valid lists the attachments of all groups to one network.
func (h Host) valid(name string) (all []types.GCAttachment, err error) {
	err = h.each(func(r record) {
		for _, j := range r.Networks {
			if j.Name == name {
				all = append(all, types.GCAttachment{ContainerID: r.ID, IfName: j.Interface})
			}
		}
	})
	return all, err
}

// each calls fn with the records of all groups. One that cannot be read is an error.
func (h Host) each(fn func(record)) error {
	return h.walk(func(_, _ string, r record, ok bool, err error) error {
		if err == nil && ok {
			fn(r)
		}
		return err
	})
}

// walk calls fn with what readRecord gives of every attachment of every group, until fn returns an error.
func (h Host) walk(fn func(group, id string, r record, ok bool, err error) error) error {
	groups, err := os.ReadDir(h.Kept)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, g := range groups {
		if !g.IsDir() {
			continue
		}
		ids, err := h.ids(g.Name())
		if err != nil {
			return err
		}
		for _, id := range ids {
			r, ok, err := readRecord(filepath.Join(h.Kept, g.Name(), id))
			if err := fn(g.Name(), id, r, ok, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// knows tells whether a version of the specification, such as 1.0.0, is at least major.minor.
func knows(version string, major, minor int) bool {
	var a, b int
	n, _ := fmt.Sscanf(version, "%d.%d", &a, &b)
	return n == 2 && (a > major || a == major && b >= minor)
}

// replay tears down what attachments of earlier boots have left: addresses that plugins keep on disk. It does so once in a
// boot, before the first attachment. What fails is put off to GC.
func (h Host) replay(ctx context.Context, outer *lock.Lock) error {
	stamp := filepath.Join(h.Kept, "boot")
	data, err := os.ReadFile(stamp)
	if err == nil && strings.TrimSpace(string(data)) == h.Boot {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(h.Kept, 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(h.Pins, "results")); err != nil { // libcni's, of a state directory that outlived the boot
		return err
	}
	type stale struct{ group, id string }
	var all []stale
	if err := h.walk(func(group, id string, r record, ok bool, err error) error {
		if err != nil {
			h.warn(err)
		}
		if ok && r.Boot != h.Boot {
			all = append(all, stale{group, id})
		}
		return nil
	}); err != nil {
		return err
	}
	for _, s := range all {
		other := h
		other.Group = s.group
		if err := other.Teardown(ctx, outer, s.id); err != nil {
			h.warn(fmt.Errorf("of the boot before: %w", err))
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Whoever writes it at the same moment writes the same, and one that is cut off is replayed again.
	return os.WriteFile(stamp, []byte(h.Boot+"\n"), 0o600)
}

// Status tells whether the default network can be attached to: nil when it can, else why not, with the next step as the
// error's Hint. Plugins with the command STATUS (from version 1.1 of the specification on) are asked. It is what the CRI's
// condition NetworkReady says.
func (h Host) Status(ctx context.Context) error {
	n, err := h.Default()
	if err == nil {
		err = h.checkPlugins(n)
	}
	if err != nil || !knows(n.Version, 1, 1) {
		return err
	}
	err = libcni.NewCNIConfigWithCacheDir(h.bin(), "", &plugins{bin: h.bin()}).GetStatusNetworkList(ctx, n.list)
	if err != nil {
		return fmt.Errorf("%w: %w", named(n.Name, err), errdefs.ErrUnavailable)
	}
	return nil
}
