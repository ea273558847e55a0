// SPDX-License-Identifier: Apache-2.0

// Package sandbox keeps the records of sandboxes. A sandbox is what containers share: namespaces, a network, a parent
// cgroup, one supervisor. A pod is a sandbox that lib/pod has made; clients of containerd's API make records of their own.
//
// # On disk
//
// Bucket sandboxes / namespace / id: the record, durable; sandbox-names / namespace / name: its id. <state>/pods/<namespace>/<uid>/: what there is of it in
// this boot, see lib/taskdir. A record says nothing about whether the sandbox runs.
//
// # Locks
//
// Making, stopping and removing a pod, and making a container in it, take the lock pod <namespace>/<name>, where name
// is that of [LockName].
//
// # After a crash
//
// A record whose sandbox was never made whole is taken over by the next call that makes the same pod, or removed
// with it. A directory without a record is garbage.
package sandbox

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/event"
	"ctrd.dev/ctrd/lib/state"
)

// Sandbox is one record, with containerd's fields (containerd.types.Sandbox).
type Sandbox struct {
	ID string `json:"id"`
	// UID tells this sandbox from an earlier or a later one of the same id. It is random.
	UID string `json:"uid"`
	// Name is what no other sandbox of the namespace is called, beside the id; it may be empty. See [LockName].
	Name       string                   `json:"name,omitempty"`
	Runtime    container.Runtime        `json:"runtime"`
	Sandboxer  string                   `json:"sandboxer,omitempty"` // who makes it: the name of a controller
	Spec       *container.Any           `json:"spec,omitempty"`
	Labels     map[string]string        `json:"labels,omitempty"`
	Extensions map[string]container.Any `json:"extensions,omitempty"`
	// Pod is what lib/pod has made the sandbox from, as it wrote it; empty: somebody else has made the record.
	Pod     json.RawMessage `json:"pod,omitempty"`
	Created time.Time       `json:"created"`
	Updated time.Time       `json:"updated"`
}

var (
	records = state.Table[Sandbox]{Name: "sandboxes"}
	names   = state.Table[string]{Name: "sandbox-names"} // of Sandbox.Name, the id
)

// maxPod bounds what lib/pod keeps with a record, in bytes.
const maxPod = 1 << 20

// Get reads one record; one that is not there is errdefs.ErrNotFound.
func Get(tx *state.Tx, ns, id string) (Sandbox, error) { return records.Get(tx, ns, id) }

// Create records a new sandbox, and gives the record, which has an identity of its own now. An id that is taken is
// errdefs.ErrAlreadyExists.
func Create(tx *state.Tx, ns string, s Sandbox) (Sandbox, error) {
	if err := container.CheckID(s.ID); err != nil {
		return s, fmt.Errorf("sandbox: %w", err)
	}
	if len(s.Pod) > maxPod {
		return s, fmt.Errorf("sandbox %q: what describes it has more than %d bytes: %w", s.ID, maxPod, errdefs.ErrInvalidArgument)
	}
	if _, err := records.Get(tx, ns, s.ID); err == nil {
		return s, fmt.Errorf("sandbox %q in namespace %q: %w", s.ID, ns, errdefs.ErrAlreadyExists)
	} else if !errdefs.IsNotFound(err) {
		return s, err
	}
	s.UID = cmp.Or(s.UID, strings.ToLower(rand.Text()))
	s.Created = time.Now().UTC()
	s.Updated = s.Created
	if err := records.Put(tx, ns, s.ID, s); err != nil {
		return s, err
	}
	if s.Name != "" {
		if _, err := names.Get(tx, ns, s.Name); err == nil {
			return s, fmt.Errorf("sandbox name %q in namespace %q: %w", s.Name, ns, errdefs.ErrAlreadyExists)
		} else if !errdefs.IsNotFound(err) {
			return s, err
		}
		if err := names.Put(tx, ns, s.Name, s.ID); err != nil {
			return s, err
		}
	}
	tx.Emit(ns, event.SandboxCreate{SandboxID: s.ID})
	return s, nil
}

// Put rewrites an existing record and stamps the time of the change. One that is not there is errdefs.ErrNotFound.
func Put(tx *state.Tx, ns string, s Sandbox) (Sandbox, error) {
	if _, err := records.Get(tx, ns, s.ID); err != nil {
		return s, err
	}
	s.Updated = time.Now().UTC()
	return s, records.Put(tx, ns, s.ID, s)
}

// Remove removes a record. One that is not there is errdefs.ErrNotFound.
func Remove(tx *state.Tx, ns, id string) error {
	s, err := records.Get(tx, ns, id)
	if err != nil && !errdefs.IsDataLoss(err) {
		return err
	}
	if err := records.Delete(tx, ns, id); err != nil {
		return err
	}
	if s.Name != "" {
		if err := names.Delete(tx, ns, s.Name); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// ByName gives the sandbox with a name; none is errdefs.ErrNotFound.
func ByName(tx *state.Tx, ns, name string) (Sandbox, error) {
	id, err := names.Get(tx, ns, name)
	if err != nil {
		return Sandbox{}, err
	}
	return records.Get(tx, ns, id)
}

// All yields the sandboxes of a namespace by id.
func All(tx *state.Tx, ns string) iter.Seq2[Sandbox, error] {
	return func(yield func(Sandbox, error) bool) {
		for row, err := range records.All(tx, ns) {
			row.Value.ID = row.Key
			if !yield(row.Value, err) {
				return
			}
		}
	}
}

// Memory keeps the sandboxes of a namespace for [Recall].
type Memory = state.Memory[Sandbox]

// NewMemory makes one that is empty.
func NewMemory() *Memory {
	return &Memory{Name: func(s *Sandbox, id string) { s.ID = id }}
}

// Recall gives the sandboxes of a namespace by id in a [state.Dir.View], each that has not changed as it was given before.
func Recall(tx *state.Tx, ns string, m *Memory) ([]state.Recalled[Sandbox], error) {
	return records.Recall(tx, ns, m)
}

// Namespaces lists the namespaces that have sandboxes.
func Namespaces(tx *state.Tx) ([]string, error) { return records.Namespaces(tx) }

// Find gives the sandbox whose id is query, or the only one whose id begins with it. None is errdefs.ErrNotFound,
// several are errdefs.ErrInvalidArgument.
func Find(tx *state.Tx, ns, query string) (Sandbox, error) {
	s, err := records.Get(tx, ns, query)
	if query == "" || err == nil || !errdefs.IsNotFound(err) {
		return s, err
	}
	found := 0
	for one, e := range All(tx, ns) {
		if e == nil && strings.HasPrefix(one.ID, query) {
			s, found = one, found+1
		}
	}
	switch found {
	case 0:
		return Sandbox{}, err
	case 1:
		return s, nil
	}
	return Sandbox{}, fmt.Errorf("sandbox %q in namespace %q: %d ids begin with it: %w", query, ns, found, errdefs.ErrInvalidArgument)
}

// Dir is where the sandbox has its files in this boot.
func (s Sandbox) Dir(d *state.Dir, ns string) string { return d.Run("pods", ns, s.UID) }

// LockName is the name of the lock of a pod, below that of its namespace. key is what makes two calls mean the same
// pod; it may be any text.
func LockName(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:16])
}
