// SPDX-License-Identifier: Apache-2.0

// Package gc removes what nothing refers to any more.
//
// Roots are images and leases that have not expired, containers, snapshots that are being written (active) or looked at
// (view) unless a client of the API has made them, content and snapshots with the label containerd.io/gc.root, ingests that a writer has open or that are younger
// than a day and have no lease, and what the process leases hold. Activations of mounts are kept by their lease and by what their
// labels refer back to alone. References are followed as containerd follows them: an
// image to its target, a container to its snapshot, a snapshot to its parent, an ingest to the blob that it shares, and
// the labels containerd.io/gc.ref.*, gc.bref.* and gc.cond.* (labels.go).
//
// A record that cannot be decoded stops no collection. It stays, and so does every record of its namespace whose
// name stands in its bytes. Where there is none, or where the bytes are no JSON, all of the namespace stays.
//
// # Locks
//
// What is to be removed is found in a view of the databases, without a lock. It is removed in steps of some hundred
// records or files. A step holds the lock collect exclusively, so that nothing is taken into use meanwhile (see
// lib/lease), and goes by what was found only while neither database nor the process leases have changed since; otherwise
// it looks again. Process leases are read before the records: unfinished work writes its records before it lets
// its lease go, so one of the two is always seen. Files go to the trash, which is emptied outside every lock.
//
// # After a crash
//
// The records go first. Files that are left over are garbage, which the next collection
// finds by itself: it looks for files that no record names. Task directories and logs without a container
// are among them.
package gc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/pod"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// Removed counts what a collection removed.
type Removed struct {
	Blobs     int   `json:"blobs"`     // records
	Snapshots int   `json:"snapshots"` // records
	Images    int   `json:"images"`    // records that had expired
	Leases    int   `json:"leases"`    // records that had expired
	Mounts    int   `json:"mounts"`    // records of activations
	Files     int   `json:"files"`     // blob files, ingests and snapshot directories
	Bytes     int64 `json:"bytes"`     // of blob files and ingests
}

// Item is one thing that a collection removes.
type Item struct {
	Kind      string `json:"kind"`                // content, images, leases, mounts, snapshots/DRIVER: a record; blob, ingest, directory, mounted: a file
	Namespace string `json:"namespace,omitempty"` // of a record
	Name      string `json:"name"`
	Bytes     int64  `json:"bytes"` // of files; of a directory only where Options.DryRun is set
}

// The kinds of items that are no records, and the one of leases.
const (
	BlobFile  = "blob"
	Ingest    = "ingest"
	Directory = "directory"
	Mounts    = "mounted" // the directory of an activation, with what is mounted in it
	LeaseKind = "leases"
)

// Options say how to collect.
type Options struct {
	// DryRun removes nothing, and takes no lock.
	DryRun bool
	// Each, when set, hears of every item that is removed, or would be.
	Each func(Item)
	// Damaged, when set, hears of records that cannot be decoded, and of which nothing was removed that they may name.
	Damaged func(error)
}

// keepIngest is how long what a pull or a writer left unfinished is kept for the next one to go on with, if
// anything has arrived.
const keepIngest = 24 * time.Hour

// Collect removes what nothing refers to. The caller holds no lock.
func Collect(ctx context.Context, d *state.Dir) (Removed, error) { return Run(ctx, d, Options{}) }

// Run is Collect with options.
func Run(ctx context.Context, d *state.Dir, o Options) (Removed, error) {
	c := &collection{ctx: ctx, d: d, o: o}
	if err := c.run(); err != nil {
		return c.removed, fmt.Errorf("collect: %w", err)
	}
	if o.DryRun {
		return c.removed, nil
	}
	for _, sn := range snapshot.Snapshotters() {
		if cleaner, ok := sn.Driver.(snapshot.Cleaner); ok {
			d.Warn(cleaner.Clean(ctx, d))
		}
	}
	crash.Point("gc.collected")
	_, err := d.Locks().Sweep()
	err = errors.Join(err, snapshot.SweepAliases(d), pod.Tidy(ctx, d), task.Tidy(ctx, d))
	d.SweepTrash()
	return c.removed, err
}

type collection struct {
	ctx     context.Context
	d       *state.Dir
	o       Options
	removed Removed
	plan    *plan
}

func (c *collection) run() error {
	if err := c.look(); err != nil {
		return err
	}
	if err := c.plan.damage(); err != nil && c.o.Damaged != nil {
		c.o.Damaged(err)
	}
	if c.o.DryRun {
		for _, x := range c.plan.dead {
			c.count(x)
		}
		return c.files()
	}
	// What ends with the boot goes first: it can stand on what does not, but not the other way round.
	for _, durable := range []bool{false, true} {
		if err := c.records(durable); err != nil {
			return err
		}
	}
	crash.Point("gc.after-commit")
	return c.files()
}

// look makes the plan of this moment, without a lock.
func (c *collection) look() error {
	held, err := lease.Live(c.d)
	if err != nil {
		return err
	}
	return c.d.View(c.ctx, func(tx *state.Tx) error { return c.makePlan(tx, held, false) })
}

// makePlan replaces the plan, unless there is an error.
func (c *collection) makePlan(tx *state.Tx, held lease.Held, files bool) error {
	p, err := makePlan(tx, held, files)
	if err == nil {
		c.plan = p
	}
	return err
}

const (
	// recordStep and fileStep bound what is removed while the locks are held.
	recordStep = 256
	fileStep   = 64
	// looks is how often a step looks again without the locks before it looks with them: somebody always writes.
	looks = 3
)

// records removes the dead records of one database.
func (c *collection) records(durable bool) error {
	for stale := 0; c.plan.count(durable) > 0 || c.plan.stale[side(durable)]; {
		removed, err := c.recordStep(durable, stale >= looks)
		if errors.Is(err, errStale) {
			stale++
			err = c.look()
		} else {
			stale = 0
		}
		if err != nil {
			return err
		}
		for _, x := range removed {
			c.count(x)
		}
	}
	return nil
}

// side is the index of a database: 0 for that of this boot, 1 for the durable one.
func side(durable bool) int {
	if durable {
		return 1
	}
	return 0
}

// errStale says that the plan is not true any more.
var errStale = errors.New("the state directory has changed")

// recordStep removes some records in one commit. With force it makes a new plan where the old one is not true any more.
func (c *collection) recordStep(durable, force bool) (removed []dead, err error) {
	l, err := c.d.Lock(c.ctx, nil, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	held, err := lease.Live(c.d)
	if err != nil {
		return nil, err
	}
	update := c.d.UpdateRun
	if durable {
		update = c.d.Update
	}
	err = update(c.ctx, l, func(tx *state.Tx) error {
		ok, err := c.plan.valid(tx, held)
		if err != nil {
			return err
		}
		if !ok && !force {
			return errStale
		}
		if !ok {
			if err := c.makePlan(tx, held, false); err != nil {
				return err
			}
		}
		removed = c.plan.take(durable)
		for _, x := range removed {
			if err := x.remove(tx); err != nil {
				return fmt.Errorf("namespace %q: %w", x.ns, err)
			}
		}
		return lease.Sweep(tx)
	})
	if err != nil {
		return nil, err
	}
	return removed, c.plan.forget(c.ctx, c.d, durable, removed)
}
