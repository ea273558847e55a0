// SPDX-License-Identifier: Apache-2.0

// Package lease keeps what unfinished work needs until a record refers to it. There are two kinds.
//
// A [Lease] is of a process. A pull has blobs and layers that no image names yet; a run has read an image that
// somebody may remove before the container's record refers to its snapshot. Each such piece of work takes a
// lease and names what it holds before it checks that the thing exists; a collection spares what live leases hold.
//
// A [Record] has containerd's meaning: it has an id, labels and resources, belongs to a namespace, and holds its
// resources until somebody removes it or its label containerd.io/gc.expire is past.
//
// # On disk
//
// <state>/leases/<random>: a text file of lines `kind name`, with the liveness lock of its process.
//
// Bucket leases / namespace / id: a record. Bucket lease-resources / namespace/uid / `type id`: what it holds. A
// resource is in the database in which its transaction wrote, so that it comes and goes with the thing itself.
//
// # Locks
//
// Naming a thing takes the collect lock, shared, for the moment of the write. A collection holds it
// exclusively while it reads the leases, commits and moves files away. So a thing that was named in
// time is spared, and one that was named too late is seen to be gone. Records have no lock of their own.
//
// # After a crash
//
// The liveness lock ends with its process, and so does the lease: the next reader removes its file. A record stays
// as it was committed.
package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// Kind is a kind of thing that a lease holds.
type Kind string

// The kinds, and the names they are held under.
const (
	Content  Kind = "content"  // a digest
	Snapshot Kind = "snapshot" // the id of a snapshot's directory, or namespace/key
	Files    Kind = "files"    // namespace/container.Container.Files: the files of a container without a record
)

// Lease is what one piece of work of this process holds. Its methods may be called by several goroutines.
type Lease struct {
	d    *state.Dir
	mu   sync.Mutex // of the file's end
	held *lock.Held
}

// Take makes an empty lease that lives until Release or the end of the process.
func Take(d *state.Dir) (*Lease, error) {
	dir := d.Run("leases")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("lease: %w", state.NoRoom(err, dir))
	}
	for {
		h, err := lock.Hold(filepath.Join(dir, rand.Text()))
		if errdefs.IsAborted(err) {
			continue // Live met the file between its making and its locking, and took it for a dead one
		}
		if err != nil {
			return nil, fmt.Errorf("lease: %w", state.NoRoom(err, dir))
		}
		crash.Point("lease.taken")
		return &Lease{d: d, held: h}, nil
	}
}

// Hold adds things to the lease. Only after it returned may the caller check that they exist. outer is
// the innermost lock the caller holds, or nil; it must rank below lock.Collect. A name that has a newline
// is errdefs.ErrInvalidArgument.
func (l *Lease) Hold(ctx context.Context, outer *lock.Lock, kind Kind, names ...string) (err error) {
	var b strings.Builder
	for _, n := range names {
		if strings.Contains(n, "\n") {
			return fmt.Errorf("lease on %s %q: %w", kind, n, errdefs.ErrInvalidArgument)
		}
		fmt.Fprintf(&b, "%s %s\n", kind, n)
	}
	c, err := l.d.Lock(ctx, outer, lock.Collect, "collect", lock.Shared)
	if err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	defer func() { err = errors.Join(err, c.Release()) }()
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.held.File()
	end, err := f.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	if _, err := f.WriteAt([]byte(b.String()), end); err != nil {
		return fmt.Errorf("lease: %w", state.NoRoom(err, f.Name()))
	}
	crash.Point("lease.held")
	return nil
}

// Release ends the lease.
func (l *Lease) Release() error {
	crash.Point("lease.release")
	return l.held.Remove()
}

// Held is what live leases hold.
type Held map[Kind]map[string]bool

// Has tells whether a thing is held.
func (h Held) Has(kind Kind, name string) bool { return h[kind][name] }

// Live reads all leases, and removes those whose process is gone. The answer stays true only for as
// long as the caller holds the collect lock exclusively.
func Live(d *state.Dir) (Held, error) {
	all := Held{}
	entries, err := os.ReadDir(d.Run("leases"))
	if errors.Is(err, os.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, fmt.Errorf("leases: %w", err)
	}
	for _, e := range entries {
		path := d.Run("leases", e.Name())
		live, err := lock.IsHeld(path)
		if err != nil {
			return nil, fmt.Errorf("leases: %w", err)
		}
		if !live {
			reap(path)
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("leases: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			kind, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if !ok {
				continue // the first line is the holder's signature
			}
			if all[Kind(kind)] == nil {
				all[Kind(kind)] = map[string]bool{}
			}
			all[Kind(kind)][name] = true
		}
	}
	return all, nil
}

// reap removes a dead lease, by way of its lock: one that was being taken just now is not dead.
func reap(path string) {
	if h, err := lock.Hold(path); err == nil {
		crash.Point("lease.reap")
		h.Remove()
	}
}
