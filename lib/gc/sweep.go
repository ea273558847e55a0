// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/activation"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// count is how many records of a database are dead.
func (p *plan) count(durable bool) (n int) {
	for _, x := range p.dead {
		if x.durable == durable {
			n++
		}
	}
	return n
}

// take gives the next records of a database to remove.
func (p *plan) take(durable bool) (some []dead) {
	for _, x := range p.dead {
		if x.durable == durable && len(some) < recordStep {
			some = append(some, x)
		}
	}
	return some
}

// forget takes what was removed out of the plan, which stays true: nobody else has committed in between. removed
// keeps the order of dead.
func (p *plan) forget(ctx context.Context, d *state.Dir, durable bool, removed []dead) error {
	committed := len(removed) > 0
	p.dead = slices.DeleteFunc(p.dead, func(x dead) bool {
		if len(removed) == 0 || x != removed[0] {
			return false
		}
		removed = removed[1:]
		return true
	})
	i := side(durable)
	p.stale[i] = false
	if !committed {
		return nil
	}
	return d.View(ctx, func(tx *state.Tx) error {
		at, err := tx.Generation(durable)
		if at == p.at[i]+1 { // the commit of these records, and no other
			p.at[i] = at
		}
		return err
	})
}

// remove removes the record from the database that tx writes. One that is only in the other stays.
func (x dead) remove(tx *state.Tx) (err error) {
	switch x.Type {
	case lease.ContentType:
		err = content.Remove(tx, x.ns, digest.Digest(x.ID))
	case lease.ImageType:
		err = image.Remove(tx, x.ns, x.ID)
	case LeaseKind:
		err = lease.Remove(tx, x.ns, x.ID)
	case activation.Type:
		err = activation.Forget(tx, x.ns, x.ID)
	default:
		err = snapshotterOf(x.node).Forget(tx, x.ns, x.ID)
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// count tells of a record.
func (c *collection) count(x dead) {
	switch x.Type {
	case lease.ContentType:
		c.removed.Blobs++
	case lease.ImageType:
		c.removed.Images++
	case LeaseKind:
		c.removed.Leases++
	case activation.Type:
		c.removed.Mounts++
	default:
		c.removed.Snapshots++
	}
	c.tell(Item{Kind: x.Type, Namespace: x.ns, Name: x.ID})
}

func (c *collection) tell(i Item) {
	if c.o.Each != nil {
		c.o.Each(i)
	}
}

// file is one that may be garbage.
type file struct {
	Item
	dead func(*plan) bool
	drop func() error
	// left, when set, tells that a drop has left it to the next collection.
	left func() bool
	// usage measures a directory, in bytes and inodes.
	usage func() (int64, int64, error)
}

// files moves the files away that no record names and no live work holds.
func (c *collection) files() error {
	all, err := c.garbage()
	if err != nil {
		return err
	}
	for some := range slices.Chunk(all, fileStep) {
		if c.o.DryRun {
			for _, f := range some {
				c.countFile(f)
			}
			continue
		}
		if err := c.fileStep(some); err != nil {
			return err
		}
		c.d.EmptyTrash()
	}
	return nil
}

// fileStep looks at some files again, and moves those to the trash that are still garbage.
func (c *collection) fileStep(some []file) (err error) {
	l, err := c.d.Lock(c.ctx, nil, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	held, err := lease.Live(c.d)
	if err != nil {
		return err
	}
	err = c.d.View(c.ctx, func(tx *state.Tx) error {
		ok, err := c.plan.validFiles(tx, held)
		if err != nil || ok && len(c.plan.dead) == 0 {
			return err
		}
		return c.makePlan(tx, held, true)
	})
	if err != nil {
		return err
	}
	for _, f := range some {
		if !f.dead(c.plan) {
			continue
		}
		if err := f.drop(); err != nil {
			return err
		}
		if f.left != nil && f.left() {
			continue
		}
		if f.Kind == Directory {
			crash.Point("gc.trashed-snapshot")
		} else {
			crash.Point("gc.trashed-blob")
		}
		c.countFile(f)
	}
	return nil
}

func (c *collection) countFile(f file) {
	c.removed.Files++
	c.removed.Bytes += f.Bytes
	if f.usage != nil && c.o.DryRun {
		f.Bytes, _, _ = f.usage()
	}
	c.tell(f.Item)
}

// garbage lists the files that the plan does not need.
func (c *collection) garbage() (all []file, err error) {
	add := func(f file) {
		if f.dead(c.plan) {
			all = append(all, f)
		}
	}
	for f, err := range content.Files(c.d) {
		if err != nil {
			return nil, err
		}
		add(file{
			Item: Item{Kind: BlobFile, Name: f.Path, Bytes: f.Size},
			dead: func(p *plan) bool { return !p.needsBlob(f.Digest) },
			drop: func() error { return c.d.Trash(f.Path) },
		})
	}
	for f, err := range content.Ingests(c.d) {
		if err != nil {
			return nil, err
		}
		young := f.Size > 0 && time.Since(f.Modified) < keepIngest
		add(file{
			Item: Item{Kind: Ingest, Name: f.Path, Bytes: f.Size},
			dead: func(p *plan) bool { return !young && !p.held.Has(lease.Content, f.Digest.String()) },
			drop: func() error { return c.d.Trash(f.Path) },
		})
	}
	for r, err := range content.RefIngests(c.d) {
		if err != nil {
			return nil, err
		}
		add(file{
			Item: Item{Kind: Ingest, Name: r.Path, Bytes: r.Size},
			dead: func(p *plan) bool { return !p.ingests[r.Path] && isOver(r.Path) },
			drop: func() error { return c.d.Trash(r.Path) },
		})
	}
	for id, err := range activation.Dirs(c.d) {
		if err != nil {
			return nil, err
		}
		add(file{
			Item: Item{Kind: Mounts, Name: id},
			dead: func(p *plan) bool { return !p.needsMounts(id) && !activation.Live(c.d, id) },
			drop: func() error { return activation.Drop(c.d, id) },
		})
	}
	dirs, err := c.dirs()
	for _, one := range dirs {
		add(file{
			Item:  Item{Kind: Directory, Name: one.sn.Name() + "/" + string(one.id)},
			dead:  func(p *plan) bool { return !p.needsDir(one, dirs) },
			drop:  func() error { return one.sn.Drop(c.d, one.id) },
			left:  func() bool { _, err := os.Lstat(one.sn.Path(c.d, one.id)); return err == nil },
			usage: func() (int64, int64, error) { return one.sn.Usage(c.ctx, c.d, one.id) },
		})
	}
	return all, err
}

// isOver tells whether the ingest of a ref has no writer, and is not young either unless a lease holds it.
func isOver(path string) bool {
	r, err := content.StatRef(path)
	return err == nil && !r.Live && (r.Ref == "" || r.Leased || time.Since(r.Updated) >= keepIngest)
}

func (c *collection) dirs() (all []dir, err error) {
	for _, sn := range snapshot.Snapshotters() {
		for id, err := range sn.Dirs(c.d) {
			if err != nil {
				return nil, err
			}
			all = append(all, dir{sn, id})
		}
	}
	return all, nil
}
