// SPDX-License-Identifier: Apache-2.0

// Package namespace keeps what is known of namespaces: their labels. A namespace is there as soon as a record of any
// kind is in it, and also when it was made by name.
//
// # On disk
//
// Bucket namespaces / name / "namespace": labels and times. A namespace without labels that was never made by name has no
// record.
//
// # Locks
//
// None. A removal looks whether the namespace is empty in the transaction that removes it.
//
// # After a crash
//
// A record is written in one commit.
package namespace

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// Namespace is one namespace. Without a record, its times are zero.
type Namespace struct {
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created,omitzero"`
	Updated time.Time         `json:"updated,omitzero"`
}

// Labels with containerd's meaning: what a client takes when it is told nothing else.
const (
	LabelRuntime     = "containerd.io/defaults/runtime"
	LabelSnapshotter = "containerd.io/defaults/snapshotter"
)

var records = state.Table[Namespace]{Name: "namespaces"}

// key is that of the one record below a name.
const key = "namespace"

// Get gives a namespace. One of which nothing is known has no labels, and is no error, as in containerd's API; see
// Exists.
func Get(tx *state.Tx, name string) (Namespace, error) {
	n, err := records.Get(tx, name, key)
	n.Name = name
	if errdefs.IsNotFound(err) {
		return n, nil
	}
	return n, err
}

// Exists tells whether the namespace was made by name or has a record of any kind.
func Exists(tx *state.Tx, name string) (bool, error) {
	n, err := Get(tx, name)
	if err != nil || !n.Created.IsZero() {
		return true, unlessDamaged(err)
	}
	has, err := Contents(tx, name)
	return len(has) > 0, err
}

func unlessDamaged(err error) error {
	if state.IsRecordError(err) {
		return nil
	}
	return err
}

// Create makes a namespace. One that exists, also by what is in it alone, is errdefs.ErrAlreadyExists.
func Create(tx *state.Tx, name string, labels map[string]string) (Namespace, error) {
	n := Namespace{Name: name, Labels: maps.Clone(labels)}
	if err := check(name, labels); err != nil {
		return n, err
	}
	there, err := Exists(tx, name)
	if err != nil {
		return n, err
	}
	if there {
		return n, fmt.Errorf("namespace %q: %w", name, errdefs.ErrAlreadyExists)
	}
	n.Created = time.Now().UTC()
	n.Updated = n.Created
	if err := records.Put(tx, name, key, n); err != nil {
		return n, err
	}
	tx.Emit(name, event.NamespaceCreate{Name: name, Labels: n.Labels})
	return n, nil
}

func check(name string, labels map[string]string) error {
	if err := container.CheckID(name); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	if err := label.Check(labels); err != nil {
		return fmt.Errorf("namespace %q: %w", name, err)
	}
	return nil
}

// Update changes the labels by field masks, as [label.Mask] has them. A namespace that is not there is made.
func Update(tx *state.Tx, name string, labels map[string]string, paths ...string) (Namespace, error) {
	if err := check(name, nil); err != nil {
		return Namespace{}, err
	}
	n, err := Get(tx, name)
	if err := unlessDamaged(err); err != nil {
		return n, err
	}
	if n.Labels, err = label.Mask(n.Labels, labels, paths...); err != nil {
		return n, fmt.Errorf("namespace %q: %w", name, err)
	}
	n.Updated = time.Now().UTC()
	if n.Created.IsZero() {
		n.Created = n.Updated
	}
	if err := records.Put(tx, name, key, n); err != nil {
		return n, err
	}
	tx.Emit(name, event.NamespaceUpdate{Name: name, Labels: n.Labels})
	return n, nil
}

// Remove removes an empty namespace. One that is not empty is errdefs.ErrFailedPrecondition, and the error says
// what is in it; one that there is not is errdefs.ErrNotFound. Leases and unfinished ingests are in nobody's way, and go
// with the next collection.
func Remove(tx *state.Tx, name string) error {
	has, err := contents(tx, name, true)
	if err != nil {
		return err
	}
	if len(has) > 0 {
		return fmt.Errorf("namespace %q is not empty: it has %s: %w", name, strings.Join(has, ", "), errdefs.ErrFailedPrecondition)
	}
	there, err := Exists(tx, name)
	if err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("namespace %q: %w", name, errdefs.ErrNotFound)
	}
	for l, err := range lease.All(tx, name) {
		if err := unlessDamaged(err); err != nil {
			return err
		}
		if err := lease.Remove(tx, name, l.ID); err != nil {
			return err
		}
	}
	if err := records.Delete(tx, name, key); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	tx.Emit(name, event.NamespaceDelete{Name: name})
	return nil
}

// All yields all namespaces by name: those with a record, and those that have anything in them. A damaged record
// comes with an error.
func All(tx *state.Tx) iter.Seq2[Namespace, error] {
	return func(yield func(Namespace, error) bool) {
		names, err := namesOf(tx)
		if err != nil {
			yield(Namespace{}, err)
			return
		}
		for _, name := range names {
			if !yield(Get(tx, name)) {
				return
			}
		}
	}
}

func namesOf(tx *state.Tx) ([]string, error) {
	all := map[string]bool{}
	for _, list := range []func(*state.Tx) ([]string, error){
		records.Namespaces, image.Namespaces, content.Namespaces, snapshot.Namespaces, container.Namespaces, sandbox.Namespaces, lease.Namespaces,
	} {
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

// Contents counts what is in a namespace, in words: "2 images", "14 blobs".
func Contents(tx *state.Tx, name string) ([]string, error) { return contents(tx, name, false) }

// contents is Contents; without leases where they are in nobody's way.
func contents(tx *state.Tx, name string, noLeases bool) (all []string, err error) {
	for _, kind := range []struct {
		one, many string
		count     func() (int, error)
	}{
		{"image", "images", func() (int, error) { return count(image.All(tx, name)) }},
		{"container", "containers", func() (int, error) { return count(container.All(tx, name)) }},
		{"sandbox", "sandboxes", func() (int, error) { return count(sandbox.All(tx, name)) }},
		{"snapshot", "snapshots", func() (int, error) { return count(snapshot.All(tx, name)) }},
		{"blob", "blobs", func() (int, error) { return count(content.All(tx, name)) }},
		{"lease", "leases", func() (int, error) { return count(lease.All(tx, name)) }},
	} {
		if noLeases && kind.one == "lease" {
			continue
		}
		n, err := kind.count()
		switch {
		case err != nil:
			return nil, err
		case n == 1:
			all = append(all, "1 "+kind.one)
		case n > 1:
			all = append(all, fmt.Sprintf("%d %s", n, kind.many))
		}
	}
	return all, nil
}

// count counts records, the damaged ones included.
func count[T any](all iter.Seq2[T, error]) (n int, err error) {
	for _, err := range all {
		if err := unlessDamaged(err); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
