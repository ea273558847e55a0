// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"os"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/smallfile"
)

// keepFor is how long a database stays open after the last commit, see [Dir.KeepOpen].
const keepFor = 5 * time.Second

// kept is a database that stays open from one commit of this process to its next. It is used again only when it is the file that has
// its name and nobody else has committed to it: what bbolt knows of a database in memory is then what the file says. In between it is not
// locked, neither by us nor for bbolt.
type kept struct {
	mu    sync.Mutex // held during a commit
	db    *bolt.DB   // nil: none
	file  *os.File   // of db
	state fileState  // after our commit
	idle  *time.Timer
}

// fileState tells two states of a database file apart, those after a write by somebody who makes no commits, too.
type fileState struct {
	commit commit
	size   int64
	mtime  unix.Timespec
}

func stateOf(f *os.File) (s fileState, err error) {
	if s.commit, err = readCommit(f); err != nil {
		return s, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return s, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	s.size, s.mtime = st.Size, st.Mtim
	return s, nil
}

// begin opens the database for a commit, under its lock, and end must be called after it.
func (k *kept) begin(path string, durable bool) (_ *bolt.DB, err error) {
	k.mu.Lock()
	defer func() {
		if k.db == nil { // also where bbolt panics
			k.mu.Unlock()
		}
	}()
	if k.db != nil && k.unchanged(path) {
		return k.db, nil
	}
	_ = k.close() // all that was written is committed
	k.db, k.file, err = openWrite(path, durable)
	return k.db, err
}

// unchanged locks the file, as bbolt does, and tells whether it can be gone on with.
func (k *kept) unchanged(path string) bool {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Dev != k.state.commit.dev || st.Ino != k.state.commit.ino {
		return false
	}
	if unix.Flock(int(k.file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	now, err := stateOf(k.file)
	return err == nil && now == k.state
}

// end closes the database, or with keep leaves it open for the next commit: it is as the last one has left it.
func (k *kept) end(keep bool) (err error) {
	defer k.mu.Unlock()
	if keep {
		k.state, err = stateOf(k.file)
		keep = err == nil && unix.Flock(int(k.file.Fd()), unix.LOCK_UN) == nil
	}
	if !keep {
		return k.close()
	}
	if k.idle == nil {
		k.idle = time.AfterFunc(keepFor, k.idled)
	} else {
		k.idle.Reset(keepFor)
	}
	return nil
}

// idled closes the database unless a commit is being made.
func (k *kept) idled() {
	if k.mu.TryLock() {
		_ = k.close()
		k.mu.Unlock()
	}
}

// drop closes the database after the commit that is being made.
func (k *kept) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.close()
}

func (k *kept) close() error {
	if k.db == nil {
		return nil
	}
	db := k.db
	k.db, k.file = nil, nil
	return db.Close()
}

// opener opens a file for bbolt, and keeps what it has opened: bbolt does not give it away.
type opener struct{ file *os.File }

func (o *opener) open(path string, flag int, perm os.FileMode) (f *os.File, err error) {
	o.file, err = smallfile.OpenFile(path, flag, perm)
	return o.file, err
}

// unlock lets go of bbolt's lock of a file, and closes it.
func unlock(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}

// KeepOpen has files stay open from one use to the next: the databases, as long as no other process commits and for some seconds, and a
// segment of the journal, which the appends of this process share, those of commits too, and of which readers are given
// from memory what these append (see [event.Tail]). It is for one that serves many: until KeepOpen(false) the file systems of
// the state directory may be busy.
func (d *Dir) KeepOpen(keep bool) {
	if d.keeps.Store(keep); keep {
		return
	}
	d.tail.Close()
	for i := range d.kept {
		d.kept[i].drop()
	}
}
