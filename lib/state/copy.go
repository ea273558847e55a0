// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// snapshot is a copy of a database in memory, in the state of one commit.
type snapshot struct {
	db     *bolt.DB
	commit commit
	users  int  // transactions that read it
	stale  bool // no longer the one in snapshots
}

// commit tells two states of a database file apart: its inode and its two meta pages, of which each
// commit changes one.
type commit struct {
	dev, ino uint64
	pageSize int64 // of the database, which another machine may have made
	meta     [2][metaSize]byte
}

// metaSize is how much of a meta page is used: a header of 16 bytes and a record of 64 (bbolt, internal/common).
const metaSize = 80

// snapshots keeps the newest copy of each database, so that a process that looks again at what nobody
// has changed copies nothing.
type snapshots struct {
	mu     sync.Mutex
	newest [2]*snapshot
}

// begin gives a read transaction on the state of the last commit, and how to end it; both are nil when
// there is no database yet.
func (s *snapshots) begin(i int, path string) (*bolt.Tx, func(), error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	now, err := readCommit(f)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.newest[i]
	if c == nil || c.commit != now {
		if c, err = copyDatabase(f, path); err != nil {
			return nil, nil, err
		}
		if old := s.newest[i]; old != nil {
			old.stale = true
			old.close()
		}
		s.newest[i] = c
	}
	tx, err := c.db.Begin(false)
	if err != nil {
		return nil, nil, damaged(path, err)
	}
	c.users++
	return tx, func() {
		tx.Rollback()
		s.mu.Lock()
		defer s.mu.Unlock()
		c.users--
		c.close()
	}, nil
}

// close frees a copy that is neither used nor the newest.
func (c *snapshot) close() {
	if c.stale && c.users == 0 {
		c.db.Close()
	}
}

func readCommit(f *os.File) (commit, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return commit{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	c := commit{dev: st.Dev, ino: st.Ino, pageSize: pageSize(f, st.Size)}
	for i := range c.meta {
		if _, err := f.ReadAt(c.meta[i][:], int64(i)*c.pageSize); err != nil {
			return commit{}, damaged(f.Name(), err)
		}
	}
	return c, nil
}

// pageSize finds the page size of a database: from its first meta page, or, when that is damaged, from the place of the
// second one, as bbolt does. It is a guess when neither can be read.
func pageSize(f io.ReaderAt, size int64) int64 {
	const (
		magic    = 0xED0CDAED
		smallest = 1 << 10
		largest  = 16 << 20
	)
	told := func(at int64) (int64, bool) {
		var b [metaSize]byte
		if _, err := f.ReadAt(b[:], at); err != nil || binary.NativeEndian.Uint32(b[16:]) != magic {
			return 0, false
		}
		n := int64(binary.NativeEndian.Uint32(b[24:]))
		return n, n >= smallest && n <= largest && n&(n-1) == 0
	}
	if n, ok := told(0); ok {
		return n
	}
	for at := int64(smallest); at <= largest && at < size; at *= 2 {
		if n, ok := told(at); ok && n == at {
			return n
		}
	}
	return newPageSize
}

// copyDatabase copies the file to anonymous memory and opens it there.
func copyDatabase(f *os.File, path string) (*snapshot, error) {
	fd, err := unix.MemfdCreate("ctrd-view", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("copy of %s: %w", path, err)
	}
	mem := os.NewFile(uintptr(fd), path)
	at, err := copyCommit(mem, f)
	if err != nil {
		mem.Close()
		return nil, err
	}
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, OpenFile: func(string, int, os.FileMode) (*os.File, error) { return mem, nil }})
	if err != nil {
		mem.Close()
		return nil, damaged(path, err)
	}
	if err := db.View(func(tx *bolt.Tx) error { return checkSchema(tx, path) }); err != nil {
		db.Close()
		return nil, err
	}
	return &snapshot{db: db, commit: at}, nil
}

// copyTries bounds the optimistic copies. A writer commits at most every few hundred microseconds, a
// copy of a database of usual size takes less.
const copyTries = 1000

// copyCommit copies src to dst so that dst is the state of one commit. A bbolt writer changes only pages
// that the last commit does not use, then one of the two meta pages; so when the meta pages are the same
// before and after, everything that they lead to was still while it was read.
func copyCommit(dst, src *os.File) (commit, error) {
	st, err := src.Stat()
	if err != nil {
		return commit{}, err
	}
	buf := make([]byte, min(max(st.Size(), 16<<10), 256<<10))
	for range copyTries {
		before, err := readCommit(src)
		if err != nil {
			return commit{}, err
		}
		if err := dst.Truncate(0); err != nil {
			return commit{}, err
		}
		for off := int64(0); ; {
			n, err := src.ReadAt(buf, off)
			if _, err := dst.WriteAt(buf[:n], off); err != nil {
				return commit{}, err
			}
			off += int64(n)
			if err == io.EOF {
				break
			}
			if err != nil {
				return commit{}, err
			}
		}
		after, err := readCommit(src)
		if err != nil {
			return commit{}, err
		}
		if before == after {
			for i := range after.meta {
				if _, err := dst.WriteAt(after.meta[i][:], int64(i)*after.pageSize); err != nil {
					return commit{}, err
				}
			}
			return after, nil
		}
		runtime.Gosched()
	}
	return commit{}, fmt.Errorf("database %s changes faster than it can be read: %w", src.Name(), errdefs.ErrAborted)
}
