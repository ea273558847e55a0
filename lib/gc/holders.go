// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// Holder is a root that keeps something.
type Holder struct {
	Kind      string `json:"kind"` // images, containers, leases, content, snapshots/DRIVER, ingests, or as below
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

// Kinds of holders that are no records.
const (
	Process = "process" // a command at work
	Damaged = "damaged" // a record that cannot be decoded, and may refer to anything
)

// String is the holder as a person reads it: image default/docker.io/library/redis:7.
func (h Holder) String() string {
	kind, _, _ := strings.Cut(h.Kind, "/")
	switch kind {
	case Process:
		return "a running command"
	case Damaged:
		return "damaged " + h.Name + " in namespace " + h.Namespace
	case lease.ContentType:
		return "blob " + h.Namespace + "/" + h.Name
	}
	return strings.TrimSuffix(kind, "s") + " " + h.Namespace + "/" + h.Name
}

// Holders says who keeps which file.
type Holders struct {
	blobs   map[digest.Digest][]Holder
	dirs    map[dir][]Holder
	ingests map[string][]Holder
}

// Blob gives the holders of a blob's file, none for garbage. Dir and Ingest are the same for the directory of a
// snapshot and of an ingest.
func (h *Holders) Blob(dg digest.Digest) []Holder { return h.blobs[dg] }

// Dir gives the holders of a snapshot's directory.
func (h *Holders) Dir(sn *snapshot.Snapshotter, id snapshot.ID) []Holder { return h.dirs[dir{sn, id}] }

// Ingest gives the holders of the directory of an ingest.
func (h *Holders) Ingest(path string) []Holder { return h.ingests[path] }

// FindHolders looks at all records and finds for each file the roots that keep it, in all namespaces. What keeps only itself
// is told as its own holder where nothing else keeps it.
func FindHolders(tx *state.Tx, held lease.Held) (*Holders, error) {
	h := &Holders{map[digest.Digest][]Holder{}, map[dir][]Holder{}, map[string][]Holder{}}
	refs, err := refIngests(tx.Dir(), map[digest.Digest]bool{})
	if err != nil {
		return nil, err
	}
	names, err := namespaces(tx, refs)
	if err != nil {
		return nil, err
	}
	for _, ns := range names {
		g, err := newGraph(tx, ns, time.Now(), held, refs)
		if err != nil {
			return nil, err
		}
		for n, all := range g.holders() {
			h.add(g, n, all)
		}
	}
	for name := range held[lease.Content] {
		addHolder(h.blobs, digest.Digest(name), Holder{Kind: Process})
	}
	for name := range held[lease.Snapshot] {
		for _, sn := range snapshot.Snapshotters() {
			addHolder(h.dirs, dir{sn, snapshot.ID(name)}, Holder{Kind: Process})
		}
	}
	return h, nil
}

func (h *Holders) add(g *graph, n node, all []Holder) {
	for _, who := range all {
		switch n.Type {
		case lease.ContentType:
			addHolder(h.blobs, digest.Digest(n.ID), who)
		case lease.IngestType:
			addHolder(h.ingests, g.ingests[n.ID].Path, who)
		default:
			if s, ok := g.snapshots[n]; ok {
				addHolder(h.dirs, dir{snapshotterOf(n), s.ID}, who)
			}
		}
	}
}

func addHolder[K comparable](m map[K][]Holder, key K, h Holder) {
	if !slices.Contains(m[key], h) {
		m[key] = append(m[key], h)
	}
}

// holders gives for each record the roots that keep it, but itself only where there is no other.
func (g *graph) holders() map[node][]Holder {
	by := map[Holder][]root{}
	var order []Holder
	for _, r := range g.roots {
		if by[r.holder] == nil {
			order = append(order, r.holder)
		}
		by[r.holder] = append(by[r.holder], r)
	}
	all, self := map[node][]Holder{}, map[node]Holder{}
	for _, h := range order {
		m := g.mark(by[h])
		for _, set := range []map[node]bool{m.full, m.flat} {
			for n := range set {
				if h == g.self(n) {
					self[n] = h
				} else {
					all[n] = append(all[n], h)
				}
			}
		}
	}
	// A root that another one keeps, such as the snapshot of a container, says nothing that the other does not.
	kept := map[Holder]bool{}
	for n, h := range self {
		kept[h] = len(all[n]) > 0
	}
	for n, h := range self {
		if len(all[n]) == 0 {
			all[n] = []Holder{h}
		}
	}
	for n := range all {
		if some := slices.DeleteFunc(slices.Clone(all[n]), func(h Holder) bool { return kept[h] }); len(some) > 0 {
			all[n] = some
		}
	}
	return all
}

// RemoveBlob removes a namespace's record of a blob, unless somebody else keeps it: then the error is
// errdefs.ErrFailedPrecondition and names who. The caller holds no lock.
func RemoveBlob(ctx context.Context, d *state.Dir, ns string, dg digest.Digest) (err error) {
	l, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Exclusive) // no lease is taken meanwhile
	if err != nil {
		return fmt.Errorf("content %q: %w", dg, err)
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	held, err := lease.Live(d)
	if err != nil {
		return err
	}
	return d.Update(ctx, l, func(tx *state.Tx) error {
		if _, err := content.Get(tx, ns, dg); errdefs.IsNotFound(err) {
			return err
		}
		g, err := newGraph(tx, ns, time.Now(), held, nil)
		if err != nil {
			return err
		}
		if who := g.others(node{Type: lease.ContentType, ID: dg.String()}); len(who) > 0 {
			return fmt.Errorf("content %q in namespace %q: %s needs it: %w", dg, ns, strings.Join(who, ", "), errdefs.ErrFailedPrecondition)
		}
		return content.Remove(tx, ns, dg)
	})
}

// maxOthers is how many holders an error names.
const maxOthers = 4

// others names who keeps a record beside itself.
func (g *graph) others(n node) []string {
	var who []string
	for _, h := range g.holders()[n] {
		if h != g.self(n) {
			who = append(who, h.String())
		}
	}
	slices.Sort(who)
	if len(who) > maxOthers {
		who = append(who[:maxOthers], fmt.Sprintf("%d others", len(who)-maxOthers))
	}
	return who
}
