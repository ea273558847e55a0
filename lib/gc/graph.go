// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"encoding/json"
	"errors"
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

// graph is what the records of one namespace say of each other.
type graph struct {
	ns    string
	now   time.Time
	own   map[node][]node // by their nature: an image keeps its target, a snapshot its parent
	label map[node][]node // by labels, back references included
	roots []root
	all   []node // what can be collected, in the order of the records

	snapshots map[node]snapshot.Info
	sizes     map[digest.Digest]int64
	mounts    map[node]string // ids of activations
	ingests   map[string]content.RefIngest

	conds   map[node][]kept // by the snapshot that they are about
	used    map[node][]time.Time
	damaged []*state.RecordError
}

// root is what is kept for its own sake, or by somebody outside of the records.
type root struct {
	node
	flat   bool   // without what its labels refer to
	holder Holder // who keeps it
}

// kept is a record that a snapshot keeps while a condition holds.
type kept struct {
	node
	condition
}

// newGraph reads the records of a namespace. held is what process leases hold, ingests the refs that are being written.
func newGraph(tx *state.Tx, ns string, now time.Time, held lease.Held, ingests []content.RefIngest) (*graph, error) {
	g := &graph{
		ns: ns, now: now, own: map[node][]node{}, label: map[node][]node{}, snapshots: map[node]snapshot.Info{},
		sizes: map[digest.Digest]int64{}, mounts: map[node]string{}, ingests: map[string]content.RefIngest{}, conds: map[node][]kept{}, used: map[node][]time.Time{},
	}
	err := errors.Join(g.images(tx), g.containers(tx), g.blobs(tx, held), g.layers(tx, held), g.leases(tx), g.activations(tx))
	if err != nil {
		return nil, err
	}
	for _, i := range ingests {
		if i.Namespace == ns {
			g.ingest(i)
		}
	}
	g.judge()
	g.pin()
	return g, nil
}

// broken notes a record that cannot be decoded. Any other error is given back.
func (g *graph) broken(err error) error {
	var r *state.RecordError
	if !errors.As(err, &r) {
		return err
	}
	g.damaged = append(g.damaged, r)
	return nil
}

// add notes what the labels of a record say.
func (g *graph) add(n node, labels map[string]string) references {
	r := parseLabels(labels)
	g.label[n] = append(g.label[n], r.refs...)
	for _, b := range r.back {
		g.label[b] = append(g.label[b], n)
	}
	for _, c := range r.conds {
		g.conds[c.snapshot] = append(g.conds[c.snapshot], kept{n, c})
	}
	if len(r.usedAt) > 0 {
		g.used[n] = r.usedAt
	}
	return r
}

func (g *graph) root(n node, holder Holder) { g.roots = append(g.roots, root{n, false, holder}) }

// self is the holder of a record that is kept for its own sake.
func (g *graph) self(n node) Holder { return Holder{Kind: n.Type, Namespace: g.ns, Name: n.ID} }

func (g *graph) images(tx *state.Tx) error {
	for i, err := range image.All(tx, g.ns) {
		n := node{Type: lease.ImageType, ID: i.Name}
		g.all = append(g.all, n)
		if err != nil {
			if err := g.broken(err); err != nil {
				return err
			}
			g.root(n, g.self(n))
			continue
		}
		g.own[n] = []node{{Type: lease.ContentType, ID: i.Target.Digest.String()}}
		g.add(n, i.Labels)
		if end, err := time.Parse(time.RFC3339, i.Labels[labelExpire]); err != nil || !g.now.After(end) {
			g.root(n, g.self(n))
		}
	}
	return nil
}

func (g *graph) containers(tx *state.Tx) error {
	for c, err := range container.All(tx, g.ns) {
		n := node{Type: containerType, ID: c.ID}
		g.root(n, g.self(n))
		if err != nil {
			if err := g.broken(err); err != nil {
				return err
			}
			continue
		}
		if c.SnapshotKey != "" {
			if sn, err := snapshot.Named(c.Snapshotter); err == nil {
				g.own[n] = []node{{Type: lease.SnapshotType(sn.Name()), ID: c.SnapshotKey}}
			}
		}
		g.add(n, c.Labels)
	}
	return nil
}

func (g *graph) blobs(tx *state.Tx, held lease.Held) error {
	for b, err := range content.All(tx, g.ns) {
		n := node{Type: lease.ContentType, ID: b.Digest.String()}
		g.all = append(g.all, n)
		if err != nil {
			if err := g.broken(err); err != nil {
				return err
			}
			g.root(n, g.self(n))
			continue
		}
		g.sizes[b.Digest] = b.Size
		if g.add(n, b.Labels).root {
			g.root(n, g.self(n))
		}
		if held.Has(lease.Content, n.ID) {
			g.root(n, Holder{Kind: Process})
		}
	}
	return nil
}

func (g *graph) layers(tx *state.Tx, held lease.Held) error {
	for _, sn := range snapshot.Snapshotters() {
		if err := g.layersOf(tx, sn, held); err != nil {
			return err
		}
	}
	return nil
}

func (g *graph) layersOf(tx *state.Tx, sn *snapshot.Snapshotter, held lease.Held) error {
	for s, err := range sn.All(tx, g.ns) {
		n := node{Type: lease.SnapshotType(sn.Name()), ID: s.Key}
		g.all = append(g.all, n)
		if err != nil {
			if err := g.broken(err); err != nil {
				return err
			}
			g.root(n, g.self(n))
			continue
		}
		g.snapshots[n] = s
		if s.Parent != "" {
			g.own[n] = []node{{Type: n.Type, ID: s.Parent}}
		}
		if g.add(n, s.Labels).root || s.Kind != snapshot.Committed && !s.Client {
			g.root(n, g.self(n))
		}
		if held.Has(lease.Snapshot, g.ns+"/"+s.Key) || held.Has(lease.Snapshot, string(s.ID)) {
			g.root(n, Holder{Kind: Process})
		}
	}
	return nil
}

func (g *graph) leases(tx *state.Tx) error {
	damaged := false
	for l, err := range lease.All(tx, g.ns) {
		n := node{Type: LeaseKind, ID: l.ID}
		g.all = append(g.all, n)
		if err != nil {
			if err := g.broken(err); err != nil {
				return err
			}
			damaged = true
			g.root(n, g.self(n))
			continue
		}
		if l.Expired(g.now) {
			continue
		}
		g.root(n, g.self(n))
		held, err := l.Resources(tx, g.ns)
		if err != nil {
			return err
		}
		for _, r := range held {
			g.roots = append(g.roots, root{r, l.Flat(), g.self(n)})
		}
	}
	if !damaged {
		return nil
	}
	// What stands without a lease may be what the damaged one holds.
	held, err := lease.Ended(tx, g.ns)
	for _, r := range held {
		g.root(r, Holder{Kind: Damaged, Namespace: g.ns})
	}
	return err
}

// activations are kept by their lease, and by what their labels refer back to.
func (g *graph) activations(tx *state.Tx) error {
	for a, err := range activation.All(tx, g.ns) {
		n := node{Type: activation.Type, ID: a.Name}
		g.all = append(g.all, n)
		g.mounts[n] = a.ID
		if err != nil {
			if err := g.broken(err); err != nil {
				return err
			}
			g.root(n, g.self(n))
			continue
		}
		g.add(n, a.Labels)
		held, err := a.Held(tx, g.ns, g.now)
		if err != nil {
			return err
		}
		if held {
			g.root(n, Holder{Kind: LeaseKind, Namespace: g.ns, Name: a.Lease})
		}
	}
	return nil
}

func (g *graph) ingest(i content.RefIngest) {
	n := node{Type: lease.IngestType, ID: i.Ref}
	g.all = append(g.all, n)
	g.ingests[i.Ref] = i
	if i.Shared {
		g.own[n] = []node{{Type: lease.ContentType, ID: i.Expected.String()}}
	}
	if i.Live || !i.Leased && g.now.Sub(i.Updated) < keepIngest {
		g.root(n, g.self(n))
	}
}

// judge lets the conditions that hold become back references.
func (g *graph) judge() {
	for snapshot, all := range g.conds {
		for _, k := range all {
			for _, used := range g.used[snapshot] {
				if k.holds(g.now, used) {
					g.label[snapshot] = append(g.label[snapshot], k.node)
				}
			}
		}
	}
}

// tellingName is how long a name must be, in bytes, so that it does not stand in a text by chance.
const tellingName = 16

// pin makes all that a damaged record may name a root: each record whose name stands in its bytes, and all of the
// namespace where there is none, or where the bytes are not JSON: then they may be the beginning of a record only.
func (g *graph) pin() {
	for _, r := range g.damaged {
		holder := Holder{Kind: Damaged, Namespace: g.ns, Name: r.Kind + " " + r.Key}
		text, found := string(r.Raw), false
		for _, n := range g.all {
			if names(text, n.ID) {
				g.root(n, holder)
				found = found || len(n.ID) >= tellingName && n.ID != r.Key
			}
		}
		for i := 0; i < len(g.all) && (!found || isTorn(r)); i++ {
			g.root(g.all[i], holder)
		}
	}
}

// isTorn tells whether the bytes of a damaged record are no JSON, so that names may be missing from them.
func isTorn(r *state.RecordError) bool { return !json.Valid(r.Raw) }

// marks is what is kept. A flat mark is of what is kept without what its labels refer to.
type marks struct{ full, flat map[node]bool }

// has tells whether a record is kept.
func (m marks) has(n node) bool { return m.full[n] || m.flat[n] }

// mark follows the references from some roots.
func (g *graph) mark(roots []root) marks {
	m := marks{map[node]bool{}, map[node]bool{}}
	var full, flat []node
	for _, r := range roots {
		if r.flat {
			flat = append(flat, r.node)
		} else {
			full = append(full, r.node)
		}
	}
	for len(full) > 0 {
		n := full[len(full)-1]
		full = full[:len(full)-1]
		if m.full[n] {
			continue
		}
		m.full[n] = true
		full = append(append(full, g.own[n]...), g.label[n]...)
	}
	for len(flat) > 0 {
		n := flat[len(flat)-1]
		flat = flat[:len(flat)-1]
		if m.has(n) {
			continue
		}
		m.flat[n] = true
		flat = append(flat, g.own[n]...)
	}
	return m
}
