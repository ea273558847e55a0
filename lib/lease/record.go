// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"crypto/rand"
	"fmt"
	"iter"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/state"
)

// Record is a lease that somebody made by name. It holds its resources until it is removed or has expired,
// whatever becomes of the process that made it.
type Record struct {
	ID      string            `json:"id"`
	UID     string            `json:"uid"` // random; names the resources, so that a later lease of the same id has none of them
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
}

// Labels of a lease, with containerd's meaning.
const (
	// LabelExpire is the time, in RFC 3339, after which a collection removes the lease.
	LabelExpire = "containerd.io/gc.expire"
	// LabelFlat, with any value, says that the lease holds its resources without what their labels refer to.
	LabelFlat = "containerd.io/gc.flat"
)

// Resource is one thing that a lease holds.
type Resource struct {
	Type string `json:"type"` // one of the types, or SnapshotType of a driver
	ID   string `json:"id"`   // a digest, a snapshot's key, the ref of an ingest or the name of an image
}

// The types of resources, as containerd names them.
const (
	ContentType = "content"
	IngestType  = "ingests"
	ImageType   = "images"

	snapshotType = "snapshots/"
)

// SnapshotType is the type of the snapshots of a driver, such as snapshots/overlayfs.
func SnapshotType(driver string) string { return snapshotType + driver }

// Snapshotter gives the driver of a resource that is a snapshot.
func (r Resource) Snapshotter() (driver string, ok bool) {
	return strings.CutPrefix(r.Type, snapshotType)
}

// check refuses a resource that no lease can hold. An unknown type is errdefs.ErrNotImplemented.
func (r Resource) check() error {
	invalid := func(why string) error {
		return fmt.Errorf("resource %q of type %q: %s: %w", r.ID, r.Type, why, errdefs.ErrInvalidArgument)
	}
	driver, snapshot := r.Snapshotter()
	switch {
	case r.ID == "":
		return invalid("it has no id")
	case snapshot && (driver == "" || strings.ContainsAny(driver, "/ ")):
		return invalid("the type of a snapshot is snapshots/DRIVER")
	case snapshot, r.Type == IngestType, r.Type == ImageType:
		return nil
	case r.Type == ContentType:
		if err := digest.Digest(r.ID).Validate(); err != nil {
			return invalid(err.Error())
		}
		return nil
	case strings.HasPrefix(r.Type, ContentType+"/"), strings.HasPrefix(r.Type, IngestType+"/"), strings.HasPrefix(r.Type, ImageType+"/"), r.Type == "snapshots":
		return invalid("no such type")
	}
	return fmt.Errorf("resource %q: type %q: %w", r.ID, r.Type, errdefs.ErrNotImplemented)
}

// held is the record of a resource: its key, TYPE and ID with a blank between, says all.
type held struct{}

var (
	records   = state.Table[Record]{Name: "leases"}
	resources = state.Table[held]{Name: "lease-resources"}
)

// Bounds on a lease's id and on a resource's, in bytes.
const (
	maxID       = 1024
	maxResource = 8192
)

// Create records a new lease. An id that is taken is errdefs.ErrAlreadyExists.
func Create(tx *state.Tx, ns, id string, labels map[string]string) (Record, error) {
	r := Record{ID: id, UID: rand.Text(), Labels: maps.Clone(labels), Created: time.Now().UTC()}
	if id == "" || len(id) > maxID || strings.ContainsAny(id, "\n\x00") {
		return r, fmt.Errorf("lease %.100q: an id has 1 to %d bytes and no line break: %w", id, maxID, errdefs.ErrInvalidArgument)
	}
	if err := label.Check(labels); err != nil {
		return r, fmt.Errorf("lease %q: %w", id, err)
	}
	_, err := records.Get(tx, ns, id)
	if err == nil {
		return r, fmt.Errorf("lease %q in namespace %q: %w", id, ns, errdefs.ErrAlreadyExists)
	}
	if !errdefs.IsNotFound(err) {
		return r, err
	}
	return r, records.Put(tx, ns, id, r)
}

// Get reads one lease.
func Get(tx *state.Tx, ns, id string) (Record, error) {
	r, err := records.Get(tx, ns, id)
	r.ID = id
	return r, err
}

// All yields the leases of a namespace by id, the expired ones included. A damaged one comes with an error.
func All(tx *state.Tx, ns string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for row, err := range records.All(tx, ns) {
			row.Value.ID = row.Key
			if !yield(row.Value, err) {
				return
			}
		}
	}
}

// Namespaces lists the namespaces that have leases.
func Namespaces(tx *state.Tx) ([]string, error) { return records.Namespaces(tx) }

// Remove removes a lease. What only it held is removed by the next collection.
func Remove(tx *state.Tx, ns, id string) error {
	r, err := Get(tx, ns, id)
	if err != nil && !state.IsRecordError(err) {
		return err
	}
	if err := records.Delete(tx, ns, id); err != nil {
		return err
	}
	if r.UID == "" {
		return nil // its resources are found by Ended
	}
	return forget(tx, bucket(ns, r.UID))
}

// Add lets a lease hold a resource, in the transaction that makes it or finds that it exists. Without an
// id it does nothing, so that functions can hand on a lease that their caller may not have. A lease that is not
// there is errdefs.ErrNotFound.
func Add(tx *state.Tx, ns, id string, r Resource) error {
	if id == "" {
		return nil
	}
	l, err := Get(tx, ns, id)
	if err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("lease %q: %w", id, err)
	}
	key := r.Type + " " + r.ID
	if len(key) > maxResource {
		return fmt.Errorf("lease %q: resource %.100q has more than %d bytes: %w", id, r.ID, maxResource, errdefs.ErrInvalidArgument)
	}
	// What outlives the boot is never held by what does not.
	if ok, err := resources.Has(tx, tx.Durable(), bucket(ns, l.UID), key); ok || err != nil {
		return err
	}
	return resources.Put(tx, bucket(ns, l.UID), key, held{})
}

// Drop takes a resource from a lease. One that it does not hold is no failure, and neither is no id.
func Drop(tx *state.Tx, ns, id string, r Resource) error {
	if id == "" {
		return nil
	}
	l, err := Get(tx, ns, id)
	if err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("lease %q: %w", id, err)
	}
	err = resources.Delete(tx, bucket(ns, l.UID), r.Type+" "+r.ID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Resources lists what a lease holds, by type and id.
func (l Record) Resources(tx *state.Tx, ns string) ([]Resource, error) {
	var all []Resource
	for row, err := range resources.All(tx, bucket(ns, l.UID)) {
		if err != nil && !state.IsRecordError(err) {
			return nil, err
		}
		typ, id, _ := strings.Cut(row.Key, " ")
		if n := len(all); n == 0 || all[n-1] != (Resource{typ, id}) { // it can be in both databases
			all = append(all, Resource{typ, id})
		}
	}
	return all, nil
}

// Expired tells whether the lease has an end that is before now. An end that is no time counts as none.
func (l Record) Expired(now time.Time) bool {
	end, err := time.Parse(time.RFC3339, l.Labels[LabelExpire])
	return err == nil && now.After(end)
}

// Flat tells whether the lease holds only its resources themselves.
func (l Record) Flat() bool {
	_, ok := l.Labels[LabelFlat]
	return ok
}

// bucket is where the resources of a lease stand. A namespace has no slash in its name.
func bucket(ns, uid string) string { return ns + "/" + uid }

// forget removes the resources of one bucket from the database that tx writes.
func forget(tx *state.Tx, bucket string) error {
	var keys []string
	for row, err := range resources.All(tx, bucket) {
		if err != nil && !state.IsRecordError(err) {
			return err
		}
		keys = append(keys, row.Key)
	}
	for _, key := range keys {
		if err := resources.Delete(tx, bucket, key); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// Sweep removes the resources of leases that are gone from the database that tx writes: those in the database that
// Remove did not write. A namespace with a damaged lease keeps all, as some may belong to that one.
func Sweep(tx *state.Tx) error {
	all, err := ended(tx)
	for _, b := range all {
		if err := forget(tx, b); err != nil {
			return err
		}
	}
	return err
}

// Stale tells whether there is anything for Sweep to remove from the database that is durable, or from the other.
func Stale(tx *state.Tx, durable bool) (bool, error) {
	all, err := ended(tx)
	for _, b := range all {
		for row := range resources.All(tx, b) {
			if ok, err := resources.Has(tx, durable, b, row.Key); ok || err != nil {
				return ok, err
			}
		}
	}
	return false, err
}

// ended lists the buckets of leases that are gone.
func ended(tx *state.Tx) (gone []string, err error) {
	all, err := resources.Namespaces(tx)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	live, unknown := map[string]bool{}, map[string]bool{}
	names, err := Namespaces(tx)
	if err != nil {
		return nil, err
	}
	for _, ns := range names {
		for l, err := range All(tx, ns) {
			if err != nil && !state.IsRecordError(err) {
				return nil, err
			}
			live[bucket(ns, l.UID)] = true
			unknown[ns] = unknown[ns] || err != nil
		}
	}
	for _, b := range all {
		ns, _, _ := strings.Cut(b, "/")
		if !live[b] && !unknown[ns] {
			gone = append(gone, b)
		}
	}
	return gone, nil
}

// Ended lists what leases of a namespace held that are gone, until Sweep has forgotten it. It is what a damaged
// lease may hold.
func Ended(tx *state.Tx, ns string) ([]Resource, error) {
	live := map[string]bool{}
	for l, err := range All(tx, ns) {
		if err == nil {
			live[bucket(ns, l.UID)] = true
		}
	}
	buckets, err := resources.Namespaces(tx)
	if err != nil {
		return nil, err
	}
	var all []Resource
	for _, b := range buckets {
		if owner, uid, _ := strings.Cut(b, "/"); owner == ns && !live[b] {
			some, err := Record{UID: uid}.Resources(tx, ns)
			if err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
	}
	return all, nil
}
