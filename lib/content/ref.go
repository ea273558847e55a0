// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// Status tells how far the ingest of a ref is.
type Status struct {
	Namespace string        `json:"namespace"`
	Ref       string        `json:"ref"`
	Offset    int64         `json:"offset"`             // bytes that have been written
	Total     int64         `json:"total,omitempty"`    // bytes that are expected; 0: not known
	Expected  digest.Digest `json:"expected,omitempty"` // empty: not known
	Started   time.Time     `json:"started"`
	Updated   time.Time     `json:"updated"`
}

// note is the file ref of an ingest: what its writer must remember.
type note struct {
	Namespace string        `json:"namespace"`
	Ref       string        `json:"ref"`
	Total     int64         `json:"total,omitempty"`
	Expected  digest.Digest `json:"expected,omitempty"`
	Shared    bool          `json:"shared,omitempty"` // the bytes are those of the blob that is expected; data has none
	Leased    bool          `json:"leased,omitempty"` // every writer had a lease, so the ingest ends with that
	Started   time.Time     `json:"started"`
	Boot      string        `json:"boot,omitempty"`   // in which data was written last
	Synced    int64         `json:"synced,omitempty"` // bytes of data that survive a power cut
}

func (n note) status(offset int64) Status {
	return Status{Namespace: n.Namespace, Ref: n.Ref, Offset: offset, Total: n.Total, Expected: n.Expected, Started: n.Started, Updated: n.Started}
}

// refPrefix begins the names of the directories of refs, beside those of blobs that a pull brings.
const refPrefix = "ref-"

// refPath is the directory of a ref's ingest. Its name has one length, whatever the ref is.
func refPath(d *state.Dir, ns, ref string) string {
	return d.Path("content", "ingest", refPrefix+digest.FromString(ns+"/"+ref).Encoded())
}

// ingestDir is the directory of a ref that this process has claimed. It is reached by its descriptor, as its name can
// be another writer's by now.
type ingestDir struct {
	path string
	root *os.Root
	held *lock.Held
}

// claim makes the directory of a ref if it is missing, and takes it. The caller holds the collect lock. One that
// another writer has is errdefs.ErrUnavailable.
func claim(d *state.Dir, ns, ref string) (*ingestDir, error) {
	path := refPath(d, ns, ref)
	fail := func(err error) (*ingestDir, error) {
		return nil, state.NoRoom(fmt.Errorf("ref %q: %w", ref, err), path)
	}
	for {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return fail(err)
		}
		root, err := os.OpenRoot(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fail(err)
		}
		held, err := lock.Hold(filepath.Join(path, "lock"))
		if err == nil && !isIn(root, held) {
			err = errors.Join(os.ErrNotExist, held.Release())
		}
		if err == nil {
			return &ingestDir{path, root, held}, nil
		}
		root.Close()
		switch {
		case errors.Is(err, os.ErrNotExist): // a writer that ended took the directory away
		case errdefs.IsAborted(err):
			return fail(fmt.Errorf("locked by another writer: %w: %w", err, errdefs.ErrUnavailable))
		default:
			return fail(err)
		}
	}
}

// isIn tells whether a lock file is in the directory that root has open.
func isIn(root *os.Root, held *lock.Held) bool {
	a, err := held.File().Stat()
	if err != nil {
		return false
	}
	b, err := root.Stat("lock")
	return err == nil && os.SameFile(a, b)
}

// readNote gives what an earlier writer wrote down, or nothing where it is missing or damaged.
func (i *ingestDir) readNote() (n note, err error) {
	data, err := i.root.ReadFile("ref")
	if errors.Is(err, os.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return n, err
	}
	if json.Unmarshal(data, &n) != nil {
		return note{}, nil
	}
	return n, nil
}

func (i *ingestDir) writeNote(n note) error {
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := i.root.WriteFile("ref.new", data, 0o600); err != nil {
		return err
	}
	return i.root.Rename("ref.new", "ref")
}

// leave lets the ref go and leaves what is there.
func (i *ingestDir) leave() error {
	_, err := i.root.Stat("ref")
	if errors.Is(err, os.ErrNotExist) {
		return i.remove() // nothing was begun
	}
	return errors.Join(i.held.Release(), i.root.Close())
}

// remove removes the directory, and lets the ref go.
func (i *ingestDir) remove() error {
	for _, name := range []string{"data", "ref.new", "ref", "lock"} {
		if err := i.root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(err, i.held.Release(), i.root.Close())
		}
	}
	// Another writer may have begun in it, and so it stays.
	_ = os.Remove(i.path)
	return errors.Join(i.held.Release(), i.root.Close())
}

// RefIngest is the ingest of a ref as a collection sees it.
type RefIngest struct {
	Status
	Path   string // its directory
	Size   int64  // bytes in it
	Shared bool   // it needs the blob that it expects
	Leased bool   // it ends with its lease
	Live   bool   // a writer has it open
}

// RefIngests yields the ingests of refs of all namespaces. One whose writer was killed before it was begun has no ref.
func RefIngests(d *state.Dir) iter.Seq2[RefIngest, error] {
	return func(yield func(RefIngest, error) bool) {
		names, err := readDir(d.Path("content", "ingest"))
		if err != nil {
			yield(RefIngest{}, err)
			return
		}
		for _, name := range names {
			if !strings.HasPrefix(name, refPrefix) {
				continue
			}
			r, err := StatRef(d.Path("content", "ingest", name))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// StatRef reads the directory of a ref's ingest; one that is gone is os.ErrNotExist. That no writer has it open stays
// true for as long as the caller holds the collect lock exclusively.
func StatRef(path string) (r RefIngest, err error) {
	st, err := os.Lstat(path)
	if err != nil {
		return r, err
	}
	r.Path, r.Updated = path, st.ModTime().UTC()
	if r.Live, err = lock.IsHeld(filepath.Join(path, "lock")); err != nil {
		return r, err
	}
	text, err := os.ReadFile(filepath.Join(path, "ref"))
	var n note
	if err != nil || json.Unmarshal(text, &n) != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return r, err
	}
	r.Status, r.Shared, r.Leased = n.status(0), n.Shared, n.Leased
	if n.Shared {
		r.Offset = n.Total
	}
	data, err := os.Lstat(filepath.Join(path, "data"))
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		r.Offset, r.Size, r.Updated = data.Size(), data.Size(), data.ModTime().UTC()
	}
	return r, err
}

// Statuses yields the ingests of a namespace that have not been committed, in no order.
func Statuses(d *state.Dir, ns string) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		for r, err := range RefIngests(d) {
			if err == nil && (r.Ref == "" || r.Namespace != ns) {
				continue
			}
			if !yield(r.Status, err) {
				return
			}
		}
	}
}

// GetStatus tells how far the ingest of a ref is. One that there is not is errdefs.ErrNotFound.
func GetStatus(d *state.Dir, ns, ref string) (Status, error) {
	r, err := StatRef(refPath(d, ns, ref))
	if errors.Is(err, os.ErrNotExist) || err == nil && r.Ref != ref {
		err = fmt.Errorf("in namespace %q: %w", ns, errdefs.ErrNotFound)
	}
	if err != nil {
		return r.Status, fmt.Errorf("ref %q: %w", ref, err)
	}
	return r.Status, nil
}

// Abort throws away the ingest of a ref, also one that a writer has open: its Commit then fails. id is the lease that
// it is taken from, or empty. One that there is not is errdefs.ErrNotFound. The caller holds no lock.
func Abort(ctx context.Context, d *state.Dir, ns, ref, id string) (err error) {
	defer d.EmptyTrash()
	l, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Shared)
	if err != nil {
		return fmt.Errorf("ref %q: %w", ref, err)
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if _, err := GetStatus(d, ns, ref); err != nil {
		return err
	}
	if err := d.Trash(refPath(d, ns, ref)); err != nil {
		return fmt.Errorf("ref %q: %w", ref, err)
	}
	if id == "" {
		return nil
	}
	return d.Update(ctx, l, func(tx *state.Tx) error {
		return lease.Drop(tx, ns, id, lease.Resource{Type: lease.IngestType, ID: ref})
	})
}
