// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// Type is that of an activation as a resource, as containerd names it.
const Type = "mounts"

// Activation is a list of mounts that is mounted as far as its caller cannot do it.
type Activation struct {
	Name     string `json:"name"`
	ID       string `json:"id"` // random; names the directory
	Lease    string `json:"lease,omitempty"`
	LeaseUID string `json:"lease_uid,omitempty"`
	// Container is the uid of the container whose task has it for its root; empty: a client's own.
	Container string            `json:"container_uid,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Active    []Active          `json:"active,omitempty"` // what is mounted
	System    []mount.Mount     `json:"system,omitempty"` // what is left to be mounted
	Created   time.Time         `json:"created"`
	Updated   time.Time         `json:"updated"`
}

// Active is one mount that is mounted.
type Active struct {
	mount.Mount
	Point     string    `json:"point"` // where; of a loop device a link to it
	MountedAt time.Time `json:"mounted_at"`
}

var records = state.Table[Activation]{Name: "mounts"}

// here stands in records for the directory of the activation.
const here = "\x00"

// moved gives an activation with one text for another in all its paths.
func (a Activation) moved(from, to string) Activation {
	one := func(m mount.Mount) mount.Mount {
		m.Source, m.Target, m.Options = strings.ReplaceAll(m.Source, from, to), strings.ReplaceAll(m.Target, from, to), slices.Clone(m.Options)
		for i := range m.Options {
			m.Options[i] = strings.ReplaceAll(m.Options[i], from, to)
		}
		return m
	}
	a.Active, a.System = slices.Clone(a.Active), slices.Clone(a.System)
	for i, m := range a.Active {
		a.Active[i] = Active{one(m.Mount), strings.ReplaceAll(m.Point, from, to), m.MountedAt}
	}
	for i, m := range a.System {
		a.System[i] = one(m)
	}
	return a
}

func dirOf(d *state.Dir, id string) string { return d.Run("mounts", id) }

func put(tx *state.Tx, ns string, a Activation) error {
	return records.Put(tx, ns, a.Name, a.moved(dirOf(tx.Dir(), a.ID), here))
}

// Get reads an activation. One that is not there is errdefs.ErrNotFound.
func Get(tx *state.Tx, ns, name string) (Activation, error) {
	a, err := records.Get(tx, ns, name)
	a.Name = name
	return a.moved(here, dirOf(tx.Dir(), a.ID)), err
}

// All yields the activations of a namespace by name. A damaged one comes with an error.
func All(tx *state.Tx, ns string) iter.Seq2[Activation, error] {
	return func(yield func(Activation, error) bool) {
		for row, err := range records.All(tx, ns) {
			row.Value.Name = row.Key
			if !yield(row.Value.moved(here, dirOf(tx.Dir(), row.Value.ID)), err) {
				return
			}
		}
	}
}

// Namespaces lists the namespaces that have activations.
func Namespaces(tx *state.Tx) ([]string, error) { return records.Namespaces(tx) }

// Update changes the labels by field masks, as [label.Mask] has them; nothing else can be changed.
func Update(tx *state.Tx, ns, name string, labels map[string]string, paths ...string) (Activation, error) {
	a, err := Get(tx, ns, name)
	if err != nil {
		return a, err
	}
	if a.Labels, err = label.Mask(a.Labels, labels, paths...); err != nil {
		return a, fmt.Errorf("mounts %q: %w", name, err)
	}
	a.Updated = time.Now().UTC()
	return a, put(tx, ns, a)
}

// Held tells whether the lease of the activation is there and has not expired.
func (a Activation) Held(tx *state.Tx, ns string, now time.Time) (bool, error) {
	if a.Lease == "" {
		return false, nil
	}
	l, err := lease.Get(tx, ns, a.Lease)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return state.IsRecordError(err) || err == nil && l.UID == a.LeaseUID && !l.Expired(now), unlessDamaged(err)
}

func unlessDamaged(err error) error {
	if state.IsRecordError(err) {
		return nil
	}
	return err
}

// Forget removes the record from the database of this boot, in the transaction of a collection. The mounts go with [Drop].
func Forget(tx *state.Tx, ns, name string) error { return records.Delete(tx, ns, name) }

// Dirs yields the ids of the directories that there are, with records and without.
func Dirs(d *state.Dir) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		entries, err := os.ReadDir(d.Run("mounts"))
		if err != nil && !os.IsNotExist(err) {
			yield("", err)
		}
		for _, e := range entries {
			if !yield(e.Name(), nil) {
				return
			}
		}
	}
}

// Live tells whether a process makes the mounts of a directory at this moment.
func Live(d *state.Dir, id string) bool {
	held, err := lock.IsHeld(filepath.Join(dirOf(d, id), "lock"))
	return held || err != nil
}

// Check finds out whether the directory of an activation is there, with a place for everything that is mounted. Whether it is still
// mounted only the mount namespace of its maker can tell.
func (a Activation) Check(d *state.Dir) error {
	if _, err := os.Stat(dirOf(d, a.ID)); err != nil || a.ID == "" {
		return cmp.Or(err, errors.New("it names no directory"))
	}
	for _, m := range a.Active {
		if _, err := os.Lstat(m.Point); err != nil {
			return err
		}
	}
	return nil
}

// check refuses names, labels and lists that no record can have.
func (r Request) check() error {
	if r.Name == "" || len(r.Name) > maxName || strings.ContainsAny(r.Name, "\n\x00") {
		return fmt.Errorf("mounts %.100q: a name has 1 to %d bytes and no line break: %w", r.Name, maxName, errdefs.ErrInvalidArgument)
	}
	if len(r.Mounts) == 0 || len(r.Mounts) > maxMounts {
		return fmt.Errorf("mounts %q: want 1 to %d mounts: %w", r.Name, maxMounts, errdefs.ErrInvalidArgument)
	}
	for _, m := range r.Mounts {
		for _, text := range append([]string{m.Type, m.Source, m.Target}, m.Options...) {
			if strings.ContainsRune(text, 0) {
				return fmt.Errorf("mounts %q: %q has a zero byte: %w", r.Name, text, errdefs.ErrInvalidArgument)
			}
		}
	}
	if err := label.Check(r.Labels); err != nil {
		return fmt.Errorf("mounts %q: %w", r.Name, err)
	}
	return nil
}

// Bounds on a request.
const (
	maxName   = 1024 // bytes
	maxMounts = 255  // as in containerd
)

// record is the activation of a request before it is mounted.
func (r Request) record(id string) Activation {
	now := time.Now().UTC()
	return Activation{Name: r.Name, ID: id, Lease: r.Lease, Container: r.Container, Labels: maps.Clone(r.Labels), Created: now, Updated: now}
}
