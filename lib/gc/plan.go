// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/activation"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// plan is what a collection would remove, as of one moment.
type plan struct {
	at    [2]int     // generations of run.db and meta.db
	held  lease.Held // by processes
	files bool       // what it is for; see makePlan
	dead  []dead
	// stale says which database has resources of leases that are gone.
	stale [2]bool

	// What the files of are needed: by records that stay, and by ingests.
	blobs     map[digest.Digest]bool
	dirs      map[dir]bool
	ingests   map[string]bool        // directories
	mounts    map[string]bool        // directories of activations
	shared    map[digest.Digest]bool // what some ingest takes over from another namespace
	damaged   []*state.RecordError
	snapshots []string // the bytes of damaged records of snapshots, which may name any directory; none of a torn one

	activations []string // those of damaged records of activations
}

// dir names the directory of a snapshot.
type dir struct {
	sn *snapshot.Snapshotter
	id snapshot.ID
}

// snapshotterOf gives the snapshotter of a node that is a record of a snapshot, and so has one.
func snapshotterOf(n node) *snapshot.Snapshotter {
	driver, _ := n.Snapshotter()
	sn, err := snapshot.Named(driver)
	if err != nil {
		panic("gc: a record of a snapshot of no snapshotter")
	}
	return sn
}

// dead is a record that nothing refers to.
type dead struct {
	ns string
	node
	durable bool
	bytes   int64
}

// makePlan reads all records. held must have been read before tx began. A plan for files needs those of every record that is
// there, whether or not something refers to it, and has no dead records: whoever finds a record finds its files.
func makePlan(tx *state.Tx, held lease.Held, files bool) (*plan, error) {
	p := &plan{held: held, files: files, shared: map[digest.Digest]bool{}, blobs: map[digest.Digest]bool{}, dirs: map[dir]bool{}, ingests: map[string]bool{}, mounts: map[string]bool{}}
	for i := range p.at {
		var err error
		if p.at[i], err = tx.Generation(i == 1); err != nil {
			return nil, err
		}
		if p.stale[i], err = lease.Stale(tx, i == 1); err != nil {
			return nil, err
		}
	}
	refs, err := refIngests(tx.Dir(), p.shared)
	if err != nil {
		return nil, err
	}
	names, err := namespaces(tx, refs)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for _, ns := range names {
		g, err := newGraph(tx, ns, now, held, refs)
		if err != nil {
			return nil, err
		}
		if err := p.add(tx, g); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// refIngests lists the ingests of refs, and notes the blobs that some share.
func refIngests(d *state.Dir, shared map[digest.Digest]bool) (all []content.RefIngest, err error) {
	for r, err := range content.RefIngests(d) {
		if err != nil {
			return nil, err
		}
		all = append(all, r)
		if r.Shared {
			shared[r.Expected] = true
		}
	}
	return all, nil
}

// namespaces lists every namespace that has anything to collect or to refer with.
func namespaces(tx *state.Tx, refs []content.RefIngest) ([]string, error) {
	all := map[string]bool{}
	for _, list := range []func(*state.Tx) ([]string, error){content.Namespaces, snapshot.Namespaces, image.Namespaces, container.Namespaces, lease.Namespaces, activation.Namespaces} {
		names, err := list(tx)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			all[n] = true
		}
	}
	for _, r := range refs {
		if r.Ref != "" {
			all[r.Namespace] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// add takes over what of a namespace is dead, and what its other records need.
func (p *plan) add(tx *state.Tx, g *graph) error {
	m := g.mark(g.roots)
	p.damaged = append(p.damaged, g.damaged...)
	for _, r := range g.damaged {
		if r.Kind == "snapshot" {
			text := string(r.Raw)
			if isTorn(r) {
				text = ""
			}
			p.snapshots = append(p.snapshots, text)
		}
		if r.Kind == "mount" {
			p.activations = append(p.activations, string(r.Raw))
		}
	}
	var layers []dead
	for _, n := range g.all {
		if m.has(n) || p.files {
			p.keep(g, n)
			continue
		}
		d := dead{ns: g.ns, node: n, durable: true}
		var err error
		switch n.Type {
		case lease.IngestType:
			continue // a directory, no record
		case lease.ContentType:
			d.bytes = g.sizes[digest.Digest(n.ID)]
			d.durable, err = isDurable(tx, content.Transient, g.ns, n.ID)
		case LeaseKind, lease.ImageType:
		case activation.Type:
			d.durable = false
		default:
			d.bytes = g.snapshots[n].Size
			if d.durable, err = isDurable(tx, snapshotterOf(n).Transient, g.ns, n.ID); err == nil {
				layers = append(layers, d)
				continue
			}
		}
		if err != nil {
			return err
		}
		p.dead = append(p.dead, d)
	}
	sorted := g.childrenFirst(layers)
	p.dead = append(p.dead, sorted...)
	// Parents in a circle, which only damage makes, stay with their directories.
	for _, d := range layers {
		if !slices.Contains(sorted, d) {
			p.keep(g, d.node)
		}
	}
	return nil
}

func isDurable(tx *state.Tx, transient func(*state.Tx, string, string) (bool, error), ns, key string) (bool, error) {
	t, err := transient(tx, ns, key)
	return !t, err
}

// keep notes the files that a record needs.
func (p *plan) keep(g *graph, n node) {
	switch n.Type {
	case lease.ContentType:
		p.blobs[digest.Digest(n.ID)] = true
	case lease.IngestType:
		p.ingests[g.ingests[n.ID].Path] = true
	case activation.Type:
		p.mounts[g.mounts[n]] = true
	case LeaseKind, lease.ImageType:
	default:
		if s, ok := g.snapshots[n]; ok {
			p.dirs[dir{snapshotterOf(n), s.ID}] = true
		}
	}
}

// childrenFirst orders dead snapshots so that none is removed while another stands on it. What stands in a circle is left
// out.
func (g *graph) childrenFirst(all []dead) (sorted []dead) {
	byKey, children := map[node]dead{}, map[node]int{}
	for _, d := range all {
		byKey[d.node] = d
		for _, parent := range g.own[d.node] {
			children[parent]++
		}
	}
	var next []dead
	for _, d := range all {
		if children[d.node] == 0 {
			next = append(next, d)
		}
	}
	for len(next) > 0 {
		d := next[0]
		next = next[1:]
		sorted = append(sorted, d)
		for _, parent := range g.own[d.node] {
			if children[parent]--; children[parent] == 0 {
				if p, ok := byKey[parent]; ok {
					next = append(next, p)
				}
			}
		}
	}
	return sorted
}

// valid tells whether the plan is true of what tx sees, with the process leases that are held now.
func (p *plan) valid(tx *state.Tx, held lease.Held) (bool, error) {
	for i := range p.at {
		at, err := tx.Generation(i == 1)
		if err != nil || at != p.at[i] {
			return false, err
		}
	}
	return reflect.DeepEqual(p.held, held), nil
}

// validFiles is valid, and also tells whether the ingests still need the same blobs: a writer commits nothing when
// it opens.
func (p *plan) validFiles(tx *state.Tx, held lease.Held) (bool, error) {
	ok, err := p.valid(tx, held)
	if !ok || err != nil {
		return false, err
	}
	shared := map[digest.Digest]bool{}
	_, err = refIngests(tx.Dir(), shared)
	return maps.Equal(shared, p.shared), err
}

// needsBlob tells whether the file of a blob is needed.
func (p *plan) needsBlob(dg digest.Digest) bool {
	return p.blobs[dg] || p.shared[dg] || p.held.Has(lease.Content, dg.String())
}

// needsMounts tells whether the mounts of a directory are needed, or may be.
func (p *plan) needsMounts(id string) bool { return p.mounts[id] || len(p.activations) > 0 }

// needsDir tells whether the directory of a snapshot is needed. all are those that there are: a damaged record of a
// snapshot that names none of them may mean any.
func (p *plan) needsDir(one dir, all []dir) bool {
	if p.dirs[one] || p.held.Has(lease.Snapshot, string(one.id)) {
		return true
	}
	for _, text := range p.snapshots {
		some := slices.ContainsFunc(all, func(other dir) bool { return names(text, string(other.id)) })
		if !some || names(text, string(one.id)) {
			return true
		}
	}
	return false
}

// names tells whether a name stands in a text, as it is or as JSON writes it.
func names(text, name string) bool {
	if name == "" {
		return false
	}
	written, err := json.Marshal(name)
	return strings.Contains(text, name) || err == nil && strings.Contains(text, string(written[1:len(written)-1]))
}

// damage is the damaged records as one error, or nil.
func (p *plan) damage() error {
	var all []error
	for _, r := range p.damaged {
		all = append(all, r)
	}
	return errors.Join(all...)
}
