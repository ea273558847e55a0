// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"cmp"
	"fmt"
	"iter"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/state"
)

// Kind is what a snapshot is for.
type Kind string

// The kinds.
const (
	Active    Kind = "active"
	View      Kind = "view"
	Committed Kind = "committed"
)

// Info is one record.
type Info struct {
	Key     string            `json:"key"`
	ID      ID                `json:"id"`
	Kind    Kind              `json:"kind"`
	Parent  string            `json:"parent,omitempty"` // key of a committed snapshot
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
	// Size in bytes on the disk and number of inodes, of this layer alone; known once committed.
	Size   int64 `json:"size,omitempty"`
	Inodes int64 `json:"inodes,omitempty"`
	// Verity is the digest of fs-verity of the file that a committed snapshot is, with erofs where the root's file system has
	// that; see lib/verity.
	Verity digest.Digest `json:"verity,omitempty"`
	// Client says that a client of the API has made it: a collection keeps it no longer than something refers to it, as
	// containerd does, also while it is not committed.
	Client bool `json:"client,omitempty"`
}

// maxKey bounds keys, which may be paths, in bytes.
const maxKey = 4096

// Get reads one record.
func (sn *Snapshotter) Get(tx *state.Tx, ns, key string) (Info, error) {
	s, err := sn.records().Get(tx, ns, key)
	s.Key = key
	return s, err
}

// Find is Get, and finds the snapshot of a layer also by the beginning of its digest, of six digits or
// more, with or without "sha256:", where only one begins so.
func (sn *Snapshotter) Find(tx *state.Tx, ns, name string) (Info, error) {
	s, err := sn.Get(tx, ns, name)
	if !errdefs.IsNotFound(err) {
		return s, err
	}
	digits := strings.TrimPrefix(name, "sha256:")
	if len(digits) < 6 || strings.Trim(digits, "0123456789abcdef") != "" {
		return s, err
	}
	found := 0
	for other, err := range sn.All(tx, ns) {
		if err == nil && strings.HasPrefix(other.Key, "sha256:"+digits) {
			s = other
			found++
		}
	}
	switch found {
	case 0:
		return s, err
	case 1:
		return s, nil
	}
	return s, fmt.Errorf("snapshot %q in namespace %q: the names of %d begin so: %w", name, ns, found, errdefs.ErrInvalidArgument)
}

// All yields the snapshots of a namespace by key.
func (sn *Snapshotter) All(tx *state.Tx, ns string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for row, err := range sn.records().All(tx, ns) {
			row.Value.Key = row.Key
			if !yield(row.Value, err) {
				return
			}
		}
	}
}

// Namespaces lists the namespaces that have snapshots of this snapshotter.
func (sn *Snapshotter) Namespaces(tx *state.Tx) ([]string, error) { return sn.records().Namespaces(tx) }

// Prepare records a writable snapshot of the staged directory id on top of parent, which may be empty.
func (sn *Snapshotter) Prepare(tx *state.Tx, ns, key, parent string, id ID, labels map[string]string) (Info, error) {
	return sn.add(tx, ns, Info{Key: key, ID: id, Kind: Active, Parent: parent, Labels: labels})
}

// Look records a view: the same as Prepare, but read-only.
func (sn *Snapshotter) Look(tx *state.Tx, ns, key, parent string, id ID, labels map[string]string) (Info, error) {
	return sn.add(tx, ns, Info{Key: key, ID: id, Kind: View, Parent: parent, Labels: labels})
}

// PutLayer records a committed snapshot whose directory is complete and synced. One that is recorded
// already under this name stays as it is, unless its record cannot be read or its directory is gone or has another tree. One that was
// made anew is right in all namespaces that have it.
func (sn *Snapshotter) PutLayer(tx *state.Tx, ns string, s Info) error {
	s.Kind = Committed
	old, err := sn.Get(tx, ns, s.Key)
	there := old.Kind != Committed
	if err == nil && !there {
		there, err = sn.isThere(tx.Dir(), old)
	}
	switch {
	case errdefs.IsNotFound(err):
	case err == nil && there:
		return nil
	case err == nil || errdefs.IsDataLoss(err):
		s.Labels = old.Labels
		if err := sn.records().Delete(tx, ns, s.Key); err != nil {
			return err
		}
	default:
		return err
	}
	if _, err := sn.add(tx, ns, s); err != nil {
		return err
	}
	tx.Emit(ns, event.SnapshotCommit{Key: s.Key, Name: s.Key, Snapshotter: sn.Name()})
	return sn.share(tx, s)
}

// share has the records of a layer that name its directory, in whatever namespace, say what is there since it was made anew. Those
// of most drivers say nothing of that.
func (sn *Snapshotter) share(tx *state.Tx, s Info) error {
	if _, ok := sn.Driver.(Prover); !ok {
		return nil
	}
	names, err := sn.Namespaces(tx)
	if err != nil {
		return err
	}
	for _, ns := range names {
		other, err := sn.Get(tx, ns, s.Key)
		if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
			continue
		}
		if err == nil && other.Kind == Committed && other.ID == s.ID && other.Verity != s.Verity {
			other.Verity, other.Size, other.Inodes = s.Verity, s.Size, s.Inodes
			err = sn.records().Put(tx, ns, s.Key, other)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isThere tells whether the tree of a snapshot is. It asks no other process, as others wait for the transaction.
func (sn *Snapshotter) isThere(d *state.Dir, s Info) (bool, error) {
	var err error
	if _, elsewhere := sn.Driver.(*proxy); elsewhere {
		_, err = os.Stat(sn.Path(d, s.ID))
	} else {
		err = sn.Check(d, s)
	}
	if Gone(err) {
		return false, nil
	}
	return err == nil, err
}

// add records a new snapshot.
func (sn *Snapshotter) add(tx *state.Tx, ns string, s Info) (Info, error) {
	if err := label.Check(s.Labels); err != nil {
		return s, fmt.Errorf("snapshot %q: %w", s.Key, err)
	}
	if err := sn.free(tx, ns, s.Key); err != nil {
		return s, err
	}
	parent, err := sn.committed(tx, ns, s.Key, s.Parent)
	if err != nil {
		return s, err
	}
	if s.Kind == Active {
		if err := sn.Adopt(tx.Dir(), s, parent.ID); err != nil {
			return s, fmt.Errorf("snapshot %q: %w", s.Key, err)
		}
	}
	s.Created = time.Now().UTC()
	s.Updated = s.Created
	if err := sn.records().Put(tx, ns, s.Key, s); err != nil {
		return s, err
	}
	if s.Kind != Committed {
		tx.Emit(ns, event.SnapshotPrepare{Key: s.Key, Parent: s.Parent, Snapshotter: sn.Name()})
	}
	return s, nil
}

// free checks a new key.
func (sn *Snapshotter) free(tx *state.Tx, ns, key string) error {
	if len(key) > maxKey || strings.ContainsFunc(key, unicode.IsControl) {
		return fmt.Errorf("snapshot %.100q: a key has at most %d bytes and no control characters: %w", key, maxKey, errdefs.ErrInvalidArgument)
	}
	_, err := sn.records().Get(tx, ns, key)
	if err == nil {
		return fmt.Errorf("snapshot %q in namespace %q: %w", key, ns, errdefs.ErrAlreadyExists)
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// committed checks and gives a parent; none is fine. What outlives the boot cannot stand on what does not.
func (sn *Snapshotter) committed(tx *state.Tx, ns, key, parent string) (Info, error) {
	if parent == "" {
		return Info{}, nil
	}
	p, err := sn.Get(tx, ns, parent)
	if err != nil {
		return p, fmt.Errorf("parent of snapshot %q: %w", key, err)
	}
	if p.Kind != Committed {
		return p, fmt.Errorf("parent of snapshot %q: %q is not committed: %w", key, parent, errdefs.ErrInvalidArgument)
	}
	if tx.Durable() {
		transient, err := sn.Transient(tx, ns, parent)
		if err != nil {
			return p, err
		}
		if transient {
			return p, fmt.Errorf("parent of snapshot %q: %q ends with this boot: %w", key, parent, errdefs.ErrFailedPrecondition)
		}
	}
	return p, nil
}

// Transient tells whether a snapshot's record ends with the boot; then [state.Dir.UpdateRun] changes it,
// and otherwise [state.Dir.Update].
func (sn *Snapshotter) Transient(tx *state.Tx, ns, key string) (bool, error) {
	return sn.records().Has(tx, false, ns, key)
}

// CommitOptions are what a snapshot gets when it is committed.
type CommitOptions struct {
	// Parent is for a snapshot that was prepared without one: it is then put on top of this one.
	Parent       string
	ID           ID                // of the tree that [Driver.Fix] made of the active one; empty: that itself
	Labels       map[string]string // replace those of the active snapshot
	Size, Inodes int64
	Verity       digest.Digest
	// Mounted lets Seal commit a snapshot that is mounted.
	Mounted bool
}

// Commit turns the active snapshot key into the committed snapshot name. The key is free afterwards.
func (sn *Snapshotter) Commit(tx *state.Tx, ns, name, key string, o CommitOptions) (Info, error) {
	s, err := sn.Get(tx, ns, key)
	if err != nil {
		return s, err
	}
	if s.Kind != Active {
		return s, fmt.Errorf("commit of snapshot %q: it is %s: %w", key, s.Kind, errdefs.ErrFailedPrecondition)
	}
	if err := label.Check(o.Labels); err != nil {
		return s, fmt.Errorf("snapshot %q: %w", name, err)
	}
	if err := sn.free(tx, ns, name); err != nil {
		return s, err
	}
	if o.Parent != "" {
		if s.Parent != "" && s.Parent != o.Parent {
			return s, fmt.Errorf("commit of snapshot %q: it stands on %q: %w", key, s.Parent, errdefs.ErrInvalidArgument)
		}
		if s.Parent == "" && !sn.Late() {
			return s, fmt.Errorf("commit of snapshot %q: the snapshotter %s wants the parent when one is prepared: %w", key, sn.Name(), errdefs.ErrFailedPrecondition)
		}
		if _, err := sn.committed(tx, ns, name, o.Parent); err != nil {
			return s, err
		}
		s.Parent = o.Parent
	}
	s.Key, s.Kind, s.Labels, s.Size, s.Inodes = name, Committed, o.Labels, o.Size, o.Inodes
	s.Verity = o.Verity
	s.ID = cmp.Or(o.ID, s.ID)
	s.Created = time.Now().UTC() // as containerd has it, a committed snapshot is a new one
	s.Updated = s.Created
	if err := sn.records().Move(tx, ns, key, name, s); err != nil {
		return s, err
	}
	tx.Emit(ns, event.SnapshotCommit{Key: key, Name: name, Snapshotter: sn.Name()})
	return s, nil
}

// Label sets labels of a snapshot; an empty value removes the label.
func (sn *Snapshotter) Label(tx *state.Tx, ns, key string, labels map[string]string) (Info, error) {
	return sn.relabel(tx, ns, key, func(old map[string]string) (map[string]string, error) { return label.Set(old, labels) })
}

// Update changes the labels of a snapshot by field masks, as label.Mask has them, and gives the record.
func (sn *Snapshotter) Update(tx *state.Tx, ns, key string, labels map[string]string, paths ...string) (Info, error) {
	return sn.relabel(tx, ns, key, func(old map[string]string) (map[string]string, error) { return label.Mask(old, labels, paths...) })
}

func (sn *Snapshotter) relabel(tx *state.Tx, ns, key string, change func(map[string]string) (map[string]string, error)) (Info, error) {
	s, err := sn.Get(tx, ns, key)
	if err != nil {
		return s, err
	}
	if s.Labels, err = change(s.Labels); err != nil {
		return s, fmt.Errorf("snapshot %q: %w", key, err)
	}
	s.Updated = time.Now().UTC()
	return s, sn.records().Put(tx, ns, key, s)
}

// Remove removes a record. It gives the ids whose directories no record of any namespace names any more;
// the caller drops them after the commit. A snapshot that others stand on is
// errdefs.ErrFailedPrecondition.
func (sn *Snapshotter) Remove(tx *state.Tx, ns, key string) ([]ID, error) {
	s, err := sn.Get(tx, ns, key)
	if err != nil {
		return nil, err
	}
	if s.Kind == Committed {
		for other, err := range sn.All(tx, ns) {
			if err != nil {
				return nil, err // it may be one that stands on it
			}
			if other.Parent == key {
				return nil, fmt.Errorf("snapshot %q: %q stands on it: %w", key, other.Key, errdefs.ErrFailedPrecondition)
			}
		}
	}
	if err := sn.records().Delete(tx, ns, key); err != nil {
		return nil, err
	}
	tx.Emit(ns, event.SnapshotRemove{Key: key, Snapshotter: sn.Name()})
	if s.Kind == Committed {
		if used, err := sn.named(tx, s.ID); used || err != nil {
			return nil, err
		}
	}
	return []ID{s.ID}, nil
}

// named tells whether a record of any namespace names the directory.
func (sn *Snapshotter) named(tx *state.Tx, id ID) (bool, error) {
	names, err := sn.Namespaces(tx)
	if err != nil {
		return false, err
	}
	for _, ns := range names {
		for s, err := range sn.All(tx, ns) {
			if err != nil {
				return false, err
			}
			if s.ID == id {
				return true, nil
			}
		}
	}
	return false, nil
}

// maxChain bounds how far parents are followed: overlayfs stacks at most 500 layers.
const maxChain = 512

// Chain gives a snapshot and all that it stands on, the top first.
func (sn *Snapshotter) Chain(tx *state.Tx, ns, key string) ([]Info, error) {
	var all []Info
	for key != "" {
		s, err := sn.Get(tx, ns, key)
		if err != nil {
			return nil, err
		}
		if all = append(all, s); len(all) > maxChain {
			return nil, fmt.Errorf("snapshot %q stands on more than %d others: %w", all[0].Key, maxChain, errdefs.ErrDataLoss)
		}
		key = s.Parent
	}
	return all, nil
}
