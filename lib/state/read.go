// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"weak"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/smallfile"
)

// records is one database as a transaction sees it.
type records interface {
	// get gives the bytes of a record, nil when there is none.
	get(table, ns, key string) ([]byte, error)
	// some gives the bytes of records in the order of keys, nil for each that is not there.
	some(table, ns string, keys []string) ([][]byte, error)
	// all gives the records of a namespace by key.
	all(table, ns string) ([]entry, error)
	// namespaces gives the namespaces that have records of a table.
	namespaces(table string) ([]string, error)
	// generation numbers the last commit that is seen.
	generation() int
}

// writing is the database that a transaction writes.
type writing struct{ tx *bolt.Tx }

func (w writing) bucket(table, ns string) *bolt.Bucket {
	top := w.tx.Bucket([]byte(table))
	if top == nil || ns == "" {
		return nil
	}
	return top.Bucket([]byte(ns))
}

func (w writing) get(table, ns, key string) ([]byte, error) {
	if b := w.bucket(table, ns); b != nil {
		return b.Get([]byte(key)), nil
	}
	return nil, nil
}

func (w writing) some(table, ns string, keys []string) ([][]byte, error) {
	values := make([][]byte, len(keys))
	if b := w.bucket(table, ns); b != nil {
		for i, key := range keys {
			values[i] = b.Get([]byte(key))
		}
	}
	return values, nil
}

func (w writing) all(table, ns string) (all []entry, err error) {
	if b := w.bucket(table, ns); b != nil {
		err = b.ForEach(func(k, v []byte) error {
			all = append(all, entry{key: slices.Clone(k), value: slices.Clone(v), bucket: v == nil})
			return nil
		})
	}
	return all, err
}

func (w writing) namespaces(table string) (all []string, err error) {
	if top := w.tx.Bucket([]byte(table)); top != nil {
		err = top.ForEachBucket(func(k []byte) error {
			all = append(all, string(k))
			return nil
		})
	}
	return all, err
}

func (w writing) generation() int { return w.tx.ID() - 1 }

// commit tells two states of a database file apart: its inode and its two meta pages, of which each
// commit changes one.
type commit struct {
	dev, ino uint64
	pageSize int64 // of the database, which another machine may have made
	raw      [2][metaSize]byte
}

func readCommit(f *os.File) (commit, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return commit{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	c := commit{dev: st.Dev, ino: st.Ino, pageSize: newPageSize}
	if c.readUsual(f) && c.usual() {
		return c, nil
	}
	c.pageSize = pageSize(f, st.Size)
	return c, c.readMeta(f)
}

// readUsual reads both meta pages of a database whose pages have the usual size, with one system call.
func (c *commit) readUsual(f *os.File) bool {
	var b [newPageSize + metaSize]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return false
	}
	copy(c.raw[0][:], b[:])
	copy(c.raw[1][:], b[newPageSize:])
	return true
}

// usual tells whether the first meta page is whole and says that pages have the usual size.
func (c *commit) usual() bool {
	m, ok := parseMeta(c.raw[0][:])
	return ok && m.pageSize == newPageSize
}

func (c *commit) readMeta(f *os.File) error {
	if c.pageSize == newPageSize && c.readUsual(f) {
		return nil
	}
	for i := range c.raw {
		if _, err := f.ReadAt(c.raw[i][:], int64(i)*c.pageSize); err != nil {
			return damaged(f.Name(), err)
		}
	}
	return nil
}

// meta gives the meta page of the last commit.
func (c *commit) meta(path string) (meta, error) {
	var last meta
	found := false
	for i := range c.raw {
		if m, ok := parseMeta(c.raw[i][:]); ok && (!found || m.txid > last.txid) {
			last, found = m, true
		}
	}
	if !found || last.pageSize != c.pageSize {
		return last, damaged(path, errors.New("no meta page is whole"))
	}
	return last, nil
}

// errMoved ends a view of which the database has gone on while it read. [Dir.View] begins again.
var errMoved = errors.New("the database has changed meanwhile")

// moves is how often a view that has given nothing out yet follows the database to a newer commit, before it copies it.
const moves = 3

// view is a database in the state of one commit, read without a lock while others write.
//
// A bbolt writer writes only pages that the last commit does not use, and then one of the two meta pages. So when
// the meta pages are the same after some pages were read as when the view began, these pages stood still, and
// what was read is the state of that commit. When they are not, the pages are dropped.
type view struct {
	d       *Dir
	durable bool
	file    *os.File // nil once it reads a copy
	commit  commit
	meta    meta
	pages   map[uint64][]byte
	copy    *wholeCopy
	given   bool // something was read of it: it cannot go on to another commit
	checked bool // its schema is known to be one that this program knows
	early   bool // for tests, see interrupt
	moved   bool
}

// openView begins a view of a database. It is nil when there is none yet. With whole it reads a copy, and never moves.
func (d *Dir) openView(durable, whole bool) (*view, error) {
	f, err := smallfile.OpenFile(d.dbPath(durable), os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v := &view{d: d, durable: durable, file: f}
	if whole {
		err = v.copyAll()
	} else {
		err = v.begin()
	}
	if err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

func (v *view) close() {
	if v.file != nil {
		v.file.Close()
		v.file = nil
	}
}

func (v *view) path() string { return v.d.dbPath(v.durable) }

// begin looks at the last commit.
func (v *view) begin() (err error) {
	v.pages = map[uint64][]byte{}
	if v.commit, err = readCommit(v.file); err == nil {
		v.meta, err = v.commit.meta(v.path())
	}
	return err
}

// copyAll goes on with a copy of the last commit.
func (v *view) copyAll() (err error) {
	if v.copy, err = v.d.copies[side(v.durable)].take(v.d, v.durable, v.file); err != nil {
		return err
	}
	v.commit = v.copy.commit
	v.meta, err = v.commit.meta(v.path())
	v.close()
	return err
}

// read calls fn with the tree of the commit. fn may be called several times, with pages that are torn; the last call
// counts.
func (v *view) read(fn func(tree) error) error {
	for try := 0; ; try++ {
		if v.moved {
			return errMoved
		}
		t := tree{fetch: v.fetch, pages: v.meta.pages, root: v.meta.root}
		var refused error
		if !v.checked {
			refused = v.checkSchema(t)
		}
		err := fn(t)
		if v.copy == nil {
			now := v.commit
			if err := now.readMeta(v.file); err != nil {
				return err
			}
			if now != v.commit {
				if err := v.follow(try); err != nil {
					return err
				}
				continue
			}
		}
		if refused != nil {
			return refused
		}
		v.given, v.checked = true, true
		v.moved = v.early
		if err != nil {
			return damaged(v.path(), err)
		}
		return nil
	}
}

// follow lets a view go on with a newer commit, unless something of the old one was given out.
func (v *view) follow(try int) error {
	if v.given {
		v.moved = true
		return errMoved
	}
	if try >= moves {
		return v.copyAll()
	}
	return v.begin()
}

// fetch reads a page, once.
func (v *view) fetch(id uint64) ([]byte, error) {
	if v.copy != nil {
		return v.copy.page(id)
	}
	if p, ok := v.pages[id]; ok {
		return p, nil
	}
	at := int64(id) * v.commit.pageSize
	p := make([]byte, v.commit.pageSize)
	if _, err := v.file.ReadAt(p, at); err != nil {
		return nil, err
	}
	if more := uint64(order.Uint32(p[12:])); more > 0 {
		if more >= v.meta.pages-id {
			return nil, fmt.Errorf("page %d: %w: %d follow it", id, errPage, more)
		}
		p = append(p, make([]byte, int64(more)*v.commit.pageSize)...)
		if _, err := v.file.ReadAt(p[v.commit.pageSize:], at+v.commit.pageSize); err != nil {
			return nil, err
		}
	}
	v.pages[id] = p
	return p, nil
}

// checkSchema refuses a database of a newer program.
func (v *view) checkSchema(t tree) error {
	b, ok, err := t.bucket(rootBucket)
	var text []byte
	if err == nil && ok {
		text, _, err = b.find(schemaKey)
	}
	if err != nil {
		return damaged(v.path(), err)
	}
	return checkSchema(ok, text, v.path())
}

// namespace gives the bucket of a namespace of a table.
func namespace(t tree, table, ns string) (b tree, ok bool, err error) {
	if ns == "" {
		return b, false, nil
	}
	top, ok, err := t.bucket([]byte(table))
	if err != nil || !ok {
		return b, false, err
	}
	return top.bucket([]byte(ns))
}

func (v *view) get(table, ns, key string) ([]byte, error) {
	values, err := v.some(table, ns, []string{key})
	return values[0], err
}

func (v *view) some(table, ns string, keys []string) ([][]byte, error) {
	values := make([][]byte, len(keys))
	err := v.read(func(t tree) error {
		clear(values)
		b, ok, err := namespace(t, table, ns)
		if err != nil || !ok {
			return err
		}
		for i, key := range keys {
			value, bucket, err := b.find([]byte(key))
			if err != nil {
				return err
			}
			if !bucket {
				values[i] = value
			}
		}
		return nil
	})
	return values, err
}

func (v *view) all(table, ns string) (all []entry, err error) {
	err = v.read(func(t tree) error {
		all = nil
		b, ok, err := namespace(t, table, ns)
		if err != nil || !ok {
			return err
		}
		all, err = b.walk()
		return err
	})
	return all, err
}

func (v *view) namespaces(table string) (all []string, err error) {
	err = v.read(func(t tree) error {
		all = nil
		top, ok, err := t.bucket([]byte(table))
		if err != nil || !ok {
			return err
		}
		entries, err := top.walk()
		for _, e := range entries {
			if e.bucket {
				all = append(all, string(e.key))
			}
		}
		return err
	})
	return all, err
}

func (v *view) generation() int {
	v.given = true
	return int(v.meta.txid)
}

// wholeCopy is a database in memory, in the state of one commit.
type wholeCopy struct {
	commit commit
	data   []byte
}

// page gives a page of the copy.
func (c *wholeCopy) page(id uint64) ([]byte, error) {
	size := uint64(c.commit.pageSize)
	if (id+1)*size > uint64(len(c.data)) {
		return nil, io.ErrUnexpectedEOF
	}
	p := c.data[id*size:]
	if n := (uint64(order.Uint32(p[12:])) + 1) * size; n <= uint64(len(p)) {
		return p[:n], nil
	}
	return nil, io.ErrUnexpectedEOF
}

// copies has the newest copy of a database as long as a view of this process reads it.
type copies struct {
	mu     sync.Mutex
	newest weak.Pointer[wholeCopy]
}

// take gives a copy of the last commit. Views that want one at the same time share it.
func (c *copies) take(d *Dir, durable bool, f *os.File) (*wholeCopy, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := readCommit(f)
	if err != nil {
		return nil, err
	}
	if old := c.newest.Value(); old != nil && old.commit == now {
		return old, nil
	}
	fresh, err := d.copyDatabase(durable, f)
	if err != nil {
		return nil, err
	}
	c.newest = weak.Make(fresh)
	return fresh, nil
}

// copyTries bounds the copies of which the database moved on before they were whole; freeTries are made before the
// others are kept from writing.
const (
	copyTries = 1000
	freeTries = 4
)

// copyDatabase copies a database that others may write. After some tries that were in vain, it keeps them from it
// for the time of a copy, if it gets their lock at once.
func (d *Dir) copyDatabase(durable bool, f *os.File) (*wholeCopy, error) {
	locks := d.locks
	locks.Wait = 0
	for try := range copyTries {
		var l *lock.Lock
		if try >= freeTries {
			l, _ = locks.Acquire(context.Background(), nil, lock.Database, lockName(durable), lock.Exclusive)
		}
		c, err := copyOnce(f)
		if l != nil {
			err = errors.Join(err, l.Release())
		}
		if c != nil || err != nil {
			return c, err
		}
		runtime.Gosched()
	}
	return nil, fmt.Errorf("database %s changes faster than it can be read: %w", f.Name(), errdefs.ErrAborted)
}

// copyOnce gives nil when the database moved on.
func copyOnce(f *os.File) (*wholeCopy, error) {
	before, err := readCommit(f)
	if err != nil {
		return nil, err
	}
	m, err := before.meta(f.Name())
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// Pages that no commit has used yet are not worth the reading.
	data := make([]byte, min(uint64(st.Size()), m.pages*uint64(m.pageSize)))
	if _, err := f.ReadAt(data, 0); err != nil {
		return nil, damaged(f.Name(), err)
	}
	after, err := readCommit(f)
	if err != nil || after != before {
		return nil, err
	}
	return &wholeCopy{before, data}, nil
}
