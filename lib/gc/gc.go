// SPDX-License-Identifier: Apache-2.0

// Package gc removes what nothing refers to any more.
//
// Roots are images, containers, snapshots that are being written (active) or looked at (view), whatever
// carries the label containerd.io/gc.root, and what live leases hold. References are followed as
// containerd follows them: containerd.io/gc.ref.content.* and containerd.io/gc.ref.snapshot.<driver> on
// images, containers, content and snapshots, a container to its snapshot, a snapshot to its parent.
//
// # Locks
//
// A collection holds the lock collect exclusively while it decides, commits and moves the files away, so
// that nothing is taken into use meanwhile (see lib/lease). The leases are read before the records:
// unfinished work writes its records before it lets its lease go, so one of the two is always seen. The
// deleting itself is done outside every lock.
//
// # After a crash
//
// The records go first, in one commit a database. Files that are left over are garbage, which the next collection
// finds by itself: it looks for files that no record names. Task directories and logs without a container
// are among them.
package gc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// Labels with containerd's meaning.
const (
	labelRoot        = "containerd.io/gc.root"
	labelRefContent  = "containerd.io/gc.ref.content"
	labelRefSnapshot = "containerd.io/gc.ref.snapshot."
)

// Removed counts what a collection removed.
type Removed struct {
	Blobs     int   `json:"blobs"`     // records
	Snapshots int   `json:"snapshots"` // records
	Files     int   `json:"files"`     // blob files, ingests and snapshot directories
	Bytes     int64 `json:"bytes"`     // of blob files and ingests
}

// keepIngest is how long what a pull left unfinished is kept for the next one to go on with, if
// anything has arrived.
const keepIngest = 24 * time.Hour

// Collect removes what nothing refers to.
func Collect(ctx context.Context, d *state.Dir) (r Removed, err error) {
	l, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		return r, fmt.Errorf("collect: %w", err)
	}
	err = collect(ctx, d, l, &r)
	if err = errors.Join(err, l.Release()); err != nil {
		return r, fmt.Errorf("collect: %w", err)
	}
	crash.Point("gc.collected")
	_, err = d.Locks().Sweep()
	err = errors.Join(err, snapshot.SweepAliases(d), task.Tidy(ctx, d))
	d.SweepTrash()
	return r, err
}

func collect(ctx context.Context, d *state.Dir, l *lock.Lock, r *Removed) error {
	held, err := lease.Live(d)
	if err != nil {
		return err
	}
	var k *kept
	// What ends with the boot goes first: it can stand on what does not, but not the other way round.
	for _, update := range []func(context.Context, *lock.Lock, func(*state.Tx) error) error{d.UpdateRun, d.Update} {
		var n Removed
		err := update(ctx, l, func(tx *state.Tx) error {
			n, k = Removed{}, newKept()
			return removeRecords(tx, held, k, &n)
		})
		if err != nil {
			return err
		}
		r.Blobs += n.Blobs
		r.Snapshots += n.Snapshots
	}
	crash.Point("gc.after-commit")
	return trashFiles(d, held, k, r)
}

// removeRecords removes what is not in use of the database that tx writes, and notes in k what records
// of either database still name.
func removeRecords(tx *state.Tx, held lease.Held, k *kept, r *Removed) error {
	names, err := namespaces(tx)
	if err != nil {
		return err
	}
	for _, ns := range names {
		m := &marker{tx: tx, ns: ns, held: held, blobs: map[digest.Digest]bool{}, snapshots: map[snap]bool{}}
		if err := m.mark(); err != nil {
			return fmt.Errorf("namespace %q: %w", ns, err)
		}
		if err := m.sweepBlobs(r, k); err != nil {
			return fmt.Errorf("namespace %q: %w", ns, err)
		}
		for _, sn := range snapshot.Snapshotters() {
			if err := m.sweepSnapshots(sn, r, k); err != nil {
				return fmt.Errorf("namespace %q: %w", ns, err)
			}
		}
	}
	return nil
}

// namespaces lists every namespace that has anything to collect or to refer with.
func namespaces(tx *state.Tx) ([]string, error) {
	all := map[string]bool{}
	for _, list := range []func(*state.Tx) ([]string, error){content.Namespaces, snapshot.Namespaces, image.Namespaces, container.Namespaces} {
		names, err := list(tx)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			all[n] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// marker finds what is in use in one namespace.
type marker struct {
	tx        *state.Tx
	ns        string
	held      lease.Held
	blobs     map[digest.Digest]bool
	snapshots map[snap]bool
}

// snap names a snapshot of a namespace.
type snap struct {
	sn  *snapshot.Snapshotter
	key string
}

// dir names the directory of one.
type dir struct {
	sn *snapshot.Snapshotter
	id snapshot.ID
}

func (m *marker) mark() error {
	for i, err := range image.All(m.tx, m.ns) {
		if err != nil {
			return err
		}
		if err := errors.Join(m.blob(i.Target.Digest), m.refs(i.Labels)); err != nil {
			return err
		}
	}
	for c, err := range container.All(m.tx, m.ns) {
		if err != nil {
			return err
		}
		if err := errors.Join(m.root(c), m.refs(c.Labels)); err != nil {
			return err
		}
	}
	for b, err := range content.All(m.tx, m.ns) {
		if err != nil {
			return err
		}
		_, root := b.Labels[labelRoot]
		if root || m.held.Has(lease.Content, b.Digest.String()) {
			if err := m.blob(b.Digest); err != nil {
				return err
			}
		}
	}
	for _, sn := range snapshot.Snapshotters() {
		for s, err := range sn.All(m.tx, m.ns) {
			if err != nil {
				return err
			}
			_, root := s.Labels[labelRoot]
			if root || s.Kind != snapshot.Committed || m.held.Has(lease.Snapshot, m.ns+"/"+s.Key) || m.held.Has(lease.Snapshot, string(s.ID)) {
				if err := m.snapshot(sn, s.Key); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// root marks the snapshot of a container. One of a snapshotter that this program does not know has no records here.
func (m *marker) root(c container.Container) error {
	sn, err := snapshot.Named(c.Snapshotter)
	if err != nil {
		return nil
	}
	return m.snapshot(sn, c.SnapshotKey)
}

// blob marks a blob and what its labels refer to. A blob that is not here, of another platform say, is
// no error.
func (m *marker) blob(d digest.Digest) error {
	if m.blobs[d] {
		return nil
	}
	b, err := content.Get(m.tx, m.ns, d)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	m.blobs[d] = true
	return m.refs(b.Labels)
}

// refs marks what labels refer to.
func (m *marker) refs(labels map[string]string) error {
	for key, value := range labels {
		var err error
		if name, ok := strings.CutPrefix(key, labelRefContent); ok && (name == "" || name[0] == '.' || name[0] == '/') {
			err = m.blob(digest.Digest(value))
		} else if name, ok := strings.CutPrefix(key, labelRefSnapshot); ok {
			name, _, _ = strings.Cut(name, "/")
			if sn, unknown := snapshot.Named(name); unknown == nil && name != "" {
				err = m.snapshot(sn, value)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// snapshot marks a snapshot, its parents and what their labels refer to.
func (m *marker) snapshot(sn *snapshot.Snapshotter, key string) error {
	for key != "" && !m.snapshots[snap{sn, key}] {
		s, err := sn.Get(m.tx, m.ns, key)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		m.snapshots[snap{sn, key}] = true
		if err := m.refs(s.Labels); err != nil {
			return err
		}
		key = s.Parent
	}
	return nil
}

// kept is what of the files is still recorded, over all namespaces.
type kept struct {
	blobs     map[digest.Digest]bool
	snapshots map[dir]bool
}

func newKept() *kept { return &kept{map[digest.Digest]bool{}, map[dir]bool{}} }

// sweepBlobs removes the records that are not marked, and notes in k what the others name.
func (m *marker) sweepBlobs(r *Removed, k *kept) error {
	for b, err := range content.All(m.tx, m.ns) {
		if err != nil {
			return err
		}
		if !m.blobs[b.Digest] {
			err := content.Remove(m.tx, m.ns, b.Digest)
			if err == nil {
				r.Blobs++
				continue
			}
			if !errdefs.IsNotFound(err) { // it is in the other database
				return err
			}
		}
		k.blobs[b.Digest] = true
	}
	return nil
}

// sweepSnapshots is sweepBlobs for snapshots. Children go before their parents, as one that others stand
// on is not removed.
func (m *marker) sweepSnapshots(sn *snapshot.Snapshotter, r *Removed, k *kept) error {
	dead, children := map[string]snapshot.Info{}, map[string]int{}
	for s, err := range sn.All(m.tx, m.ns) {
		if err != nil {
			return err
		}
		transient, err := sn.Transient(m.tx, m.ns, s.Key)
		if err != nil {
			return err
		}
		if m.snapshots[snap{sn, s.Key}] || transient == m.tx.Durable() {
			k.snapshots[dir{sn, s.ID}] = true
			continue
		}
		dead[s.Key] = s
		children[s.Parent]++
	}
	var next []string
	for key := range dead {
		if children[key] == 0 {
			next = append(next, key)
		}
	}
	for len(next) > 0 {
		s := dead[next[0]]
		next = next[1:]
		if _, err := sn.Remove(m.tx, m.ns, s.Key); err != nil {
			return err
		}
		r.Snapshots++
		delete(dead, s.Key)
		if children[s.Parent]--; children[s.Parent] == 0 && dead[s.Parent].Key != "" {
			next = append(next, s.Parent)
		}
	}
	// Parents in a circle, which only damage makes, stay with their directories.
	for _, s := range dead {
		k.snapshots[dir{sn, s.ID}] = true
	}
	return nil
}

// trashFiles moves files away that no record names and no live work holds.
func trashFiles(d *state.Dir, held lease.Held, k *kept, r *Removed) error {
	for f, err := range content.Files(d) {
		if err != nil {
			return err
		}
		if k.blobs[f.Digest] || held.Has(lease.Content, f.Digest.String()) {
			continue
		}
		if err := d.Trash(f.Path); err != nil {
			return err
		}
		crash.Point("gc.trashed-blob")
		r.Files++
		r.Bytes += f.Size
	}
	for f, err := range content.Ingests(d) {
		if err != nil {
			return err
		}
		if f.Size > 0 && time.Since(f.Modified) < keepIngest || held.Has(lease.Content, f.Digest.String()) {
			continue
		}
		if err := d.Trash(f.Path); err != nil {
			return err
		}
		r.Files++
		r.Bytes += f.Size
	}
	for _, sn := range snapshot.Snapshotters() {
		for id, err := range sn.Dirs(d) {
			if err != nil {
				return err
			}
			if k.snapshots[dir{sn, id}] || held.Has(lease.Snapshot, string(id)) {
				continue
			}
			if err := sn.Drop(d, id); err != nil {
				return err
			}
			crash.Point("gc.trashed-snapshot")
			r.Files++
		}
	}
	return nil
}
