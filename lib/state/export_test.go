// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// SetSchema rewrites a database's schema number, as a newer program would.
func SetSchema(t *testing.T, path, n string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket(rootBucket).Put(schemaKey, []byte(n)) }); err != nil {
		t.Fatal(err)
	}
}

// Remake makes a database with pages of another size.
func Remake(t *testing.T, path string, pageSize int) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: pageSize})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket(rootBucket)
		if err != nil {
			return err
		}
		return b.Put(schemaKey, []byte("1"))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// PutRaw writes a record's bytes as they are. Table and namespace must be there.
func PutRaw(t *testing.T, path, table, ns, key, data string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(table)).Bucket([]byte(ns)).Put([]byte(key), []byte(data))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Misplace lets every leaf element with the key point 1.5 GiB behind its place, where nothing is mapped.
// It must be in a bucket that has pages of its own.
func Misplace(t *testing.T, path, key string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Of a page: id, flags (2: leaf), count, overflow; then of each element flags, pos, ksize, vsize.
	u32 := binary.NativeEndian.Uint32
	found := 0
	for page := 2 * newPageSize; page < len(data); page += newPageSize {
		if p := data[page:]; binary.NativeEndian.Uint16(p[8:]) == 2 {
			for i := range int(binary.NativeEndian.Uint16(p[10:])) {
				e := p[16+16*i:]
				if k := e[u32(e[4:]):]; bytes.Equal(k[:u32(e[8:])], []byte(key)) {
					binary.NativeEndian.PutUint32(e[4:], 3<<29)
					found++
				}
			}
		}
	}
	if found == 0 {
		t.Fatalf("%s has no leaf element %q", path, key)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// ParsePair is parsePair, for its fuzz target.
func ParsePair(text, boot string, inode uint64) (id, other string, copied bool) {
	p := parsePair(text, boot, inode)
	return p.id, p.other, p.copied
}

// SyncTree is what SyncFS does besides before Linux 5.8.
func SyncTree(path string) error { return syncTree(path) }

// AtLeast is atLeast.
func AtLeast(release string, major, minor int) bool { return atLeast(release, major, minor) }

// ReadAll reads what can be read of the bytes of a database with pages of 4 KiB.
func ReadAll(data []byte, root int64, fn func(table, ns string, value []byte)) {
	c := &wholeCopy{commit: commit{pageSize: newPageSize}, data: data}
	copy(c.commit.raw[0][:], data)
	copy(c.commit.raw[1][:], data[newPageSize:])
	m, err := c.commit.meta("fuzz")
	if err != nil {
		m = meta{root: uint64(root), pages: uint64(len(data) / newPageSize)}
	}
	t := tree{fetch: c.page, pages: m.pages, root: m.root}
	tables, _ := t.walk()
	for _, table := range tables {
		top, ok, err := t.bucket(table.key)
		if err != nil || !ok {
			continue
		}
		spaces, _ := top.walk()
		for _, ns := range spaces {
			b, ok, err := top.bucket(ns.key)
			if err != nil || !ok {
				continue
			}
			all, _ := b.walk()
			for _, e := range all {
				v, _, _ := b.find(e.key)
				fn(string(table.key), string(ns.key), v)
			}
		}
	}
}

// Waiting tells how many updates wait to share a commit.
func Waiting(d *Dir, durable bool) int {
	g := &d.groups[side(durable)]
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}
