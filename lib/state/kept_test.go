// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"ctrd.dev/ctrd/lib/state"
)

// databases lists the descriptors of this process that are the database of d.
func databases(t *testing.T, d *state.Dir) (all []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(name, d.Path("meta.db")) {
			all = append(all, fd.Name()+" "+name)
		}
	}
	return all
}

// sound opens a database as another program does, which must not wait for a lock, and has bbolt look for damage.
func sound(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bolt.Tx) (err error) {
		for e := range tx.Check() {
			err = errors.Join(err, e)
		}
		return err
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Error(err)
	}
}

// TestKept: a database that is kept open is no other's hindrance, and what others have done to it is seen: a commit, another file in
// its place, another one's contents in it.
func TestKept(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	ours, theirs := open(t, root, run), open(t, root, run)
	ours.KeepOpen(true)
	add := func(d *state.Dir, key string) {
		t.Helper()
		if err := d.Update(t.Context(), nil, func(tx *state.Tx) error { return bump(tx, key) }); err != nil {
			t.Fatal(err)
		}
	}
	want := func(n int, key string) {
		t.Helper()
		if got := get(t, theirs, key); got != n {
			t.Errorf("%s is %d, want %d", key, got, n)
		}
	}
	add(ours, "x")
	before := databases(t, ours)
	add(ours, "x")
	if after := databases(t, ours); len(before) != 1 || len(after) != 1 || after[0] != before[0] {
		t.Errorf("open after a commit: %q, and after the next: %q", before, after)
	}
	sound(t, ours.Path("meta.db"))
	add(theirs, "x")
	add(ours, "x")
	want(4, "x")
	saved, err := os.ReadFile(ours.Path("meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	add(ours, "x")
	add(ours, "y")
	if err := errors.Join(os.WriteFile(ours.Path("copy"), saved, 0o600), os.Rename(ours.Path("copy"), ours.Path("meta.db"))); err != nil {
		t.Fatal(err)
	}
	add(ours, "x")
	want(5, "x")
	want(0, "y")
	if err := os.WriteFile(ours.Path("meta.db"), saved, 0o600); err != nil {
		t.Fatal(err)
	}
	add(ours, "x")
	want(5, "x")
	sound(t, ours.Path("meta.db"))
	ours.KeepOpen(false)
	if left := databases(t, ours); len(left) > 0 {
		t.Errorf("left open: %q", left)
	}
	add(ours, "x")
	if left := databases(t, ours); len(left) > 0 {
		t.Errorf("left open: %q", left)
	}
}

// TestKeptByMany: several that keep the database open commit in turn, and none loses what another has written.
func TestKeptByMany(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	const dirs, each = 4, 150
	var all sync.WaitGroup
	for i := range dirs {
		d := open(t, root, run)
		d.KeepOpen(i > 0) // one opens it each time
		defer d.KeepOpen(false)
		for j := range 2 {
			all.Go(func() {
				for n := range each {
					err := d.Update(t.Context(), nil, func(tx *state.Tx) error {
						return errors.Join(bump(tx, "all"), bump(tx, fmt.Sprintf("%d-%d-%d", i, j, n%10)))
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	all.Wait()
	d := open(t, root, run)
	if n := get(t, d, "all"); n != dirs*2*each {
		t.Errorf("%d commits are there, want %d", n, dirs*2*each)
	}
	sound(t, d.Path("meta.db"))
}
