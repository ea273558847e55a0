// SPDX-License-Identifier: Apache-2.0

package content

import (
	"fmt"
	"iter"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/state"
)

// Blob is one namespace's record of a blob.
type Blob struct {
	Digest  digest.Digest     `json:"digest"`
	Size    int64             `json:"size"` // bytes
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
}

var records = state.Table[Blob]{Name: "content"}

// Get reads one record; a blob that this namespace does not have is errdefs.ErrNotFound.
func Get(tx *state.Tx, ns string, d digest.Digest) (Blob, error) {
	b, err := records.Get(tx, ns, d.String())
	b.Digest = d
	return b, err
}

// Find is Get, and finds a blob also by the beginning of its digest's hexadecimal part, of six digits or more, where only
// one begins so. A digest that several blobs begin with is errdefs.ErrInvalidArgument.
func Find(tx *state.Tx, ns, query string) (Blob, error) {
	b, err := Get(tx, ns, digest.Digest(query))
	if !errdefs.IsNotFound(err) {
		return b, err
	}
	alg, digits, ok := strings.Cut(query, ":")
	if !ok {
		alg, digits = "", query
	}
	if len(digits) < 6 || strings.Trim(digits, "0123456789abcdef") != "" {
		return b, err
	}
	n := 0
	for other, e := range All(tx, ns) {
		a, hex, _ := strings.Cut(other.Digest.String(), ":")
		if e == nil && (alg == "" || a == alg) && strings.HasPrefix(hex, digits) {
			b = other
			n++
		}
	}
	switch n {
	case 0:
		return b, err
	case 1:
		return b, nil
	}
	return b, fmt.Errorf("content %q in namespace %q: %d digests begin so: %w", query, ns, n, errdefs.ErrInvalidArgument)
}

// Put records a blob or replaces its record; the time of creation stays. The blob's file must be in
// place and synced.
func Put(tx *state.Tx, ns string, b Blob) error {
	if err := b.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", b.Digest, err, errdefs.ErrInvalidArgument)
	}
	if err := label.Check(b.Labels); err != nil {
		return fmt.Errorf("content %q: %w", b.Digest, err)
	}
	old, err := Get(tx, ns, b.Digest)
	isNew := errdefs.IsNotFound(err)
	if err != nil && !isNew && !errdefs.IsDataLoss(err) {
		return err
	}
	b.Updated = time.Now().UTC()
	if b.Created = old.Created; b.Created.IsZero() {
		b.Created = b.Updated
	}
	if err := records.Put(tx, ns, b.Digest.String(), b); err != nil {
		return err
	}
	if isNew {
		tx.Emit(ns, event.ContentCreate{Digest: b.Digest.String(), Size: b.Size})
	}
	return nil
}

// Merge records a blob, or adds the labels to those of its record. Nothing is written when the record
// has them all.
func Merge(tx *state.Tx, ns string, b Blob) error {
	old, err := Get(tx, ns, b.Digest)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
		return Put(tx, ns, b)
	}
	if err != nil {
		return err
	}
	labels := maps.Clone(old.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, b.Labels)
	if maps.Equal(labels, old.Labels) && old.Size == b.Size {
		return nil
	}
	b.Labels = labels
	return Put(tx, ns, b)
}

// Label sets labels of a recorded blob; an empty value removes the label.
func Label(tx *state.Tx, ns string, d digest.Digest, labels map[string]string) error {
	b, err := Get(tx, ns, d)
	if err != nil {
		return err
	}
	if b.Labels, err = label.Set(b.Labels, labels); err != nil {
		return fmt.Errorf("content %q: %w", d, err)
	}
	return Put(tx, ns, b)
}

// Update changes the labels of a recorded blob by field masks, as [label.Mask] has them, and gives the record.
func Update(tx *state.Tx, ns string, d digest.Digest, labels map[string]string, paths ...string) (Blob, error) {
	b, err := Get(tx, ns, d)
	if err != nil {
		return b, err
	}
	if b.Labels, err = label.Mask(b.Labels, labels, paths...); err != nil {
		return b, fmt.Errorf("content %q: %w", d, err)
	}
	if err := Put(tx, ns, b); err != nil {
		return b, err
	}
	return Get(tx, ns, d)
}

// Remove removes a namespace's record. The file stays until a collection finds that no record names it.
func Remove(tx *state.Tx, ns string, d digest.Digest) error {
	if err := records.Delete(tx, ns, d.String()); err != nil {
		return err
	}
	tx.Emit(ns, event.ContentDelete{Digest: d.String()})
	return nil
}

// All yields the records of a namespace, by digest. A damaged one comes with an error.
func All(tx *state.Tx, ns string) iter.Seq2[Blob, error] {
	return func(yield func(Blob, error) bool) {
		for row, err := range records.All(tx, ns) {
			row.Value.Digest = digest.Digest(row.Key)
			if !yield(row.Value, err) {
				return
			}
		}
	}
}

// Transient tells whether a record ends with the boot.
func Transient(tx *state.Tx, ns, dg string) (bool, error) { return records.Has(tx, false, ns, dg) }

// Namespaces lists the namespaces that have blobs.
func Namespaces(tx *state.Tx) ([]string, error) { return records.Namespaces(tx) }

// Recorded tells whether any namespace has the blob.
func Recorded(tx *state.Tx, d digest.Digest) (bool, error) {
	all, err := records.Namespaces(tx)
	if err != nil {
		return false, err
	}
	for _, ns := range all {
		for _, durable := range []bool{true, false} {
			if ok, err := records.Has(tx, durable, ns, d.String()); ok || err != nil {
				return ok, err
			}
		}
	}
	return false, nil
}
