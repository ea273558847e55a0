// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"sort"
)

// The format of a bbolt database of version 2, as far as a reader needs it (bbolt, internal/common). Numbers have the byte
// order of the machine.
//
// A file is a row of pages. A page begins with its number (8 bytes), its kind (2), how many elements it has (2) and
// how many pages follow that belong to it (4). Pages 0 and 1 are meta pages; the one with the larger transaction
// leads to the tree of the last commit. An element of a branch has the offset of a key from itself (4), the key's
// size (4) and a page (8); one of a leaf has flags (4), the offset (4), the sizes of key and value (4 + 4), and the
// value follows the key. A bucket is a value: its root page (8) and a sequence (8), and where the root is 0 a
// whole leaf follows.
const (
	pageHeader  = 16
	elementSize = 16
	bucketSize  = 16
	kindBranch  = 1
	kindLeaf    = 2
	flagBucket  = 1
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	// metaSize is how much of a meta page is used.
	metaSize = 80

	smallestPage = 1 << 10
	largestPage  = 16 << 20
	// maxDepth bounds how many pages lead to a record. A branch has at least two elements.
	maxDepth = 64
)

var order = binary.NativeEndian

// meta is what a meta page says.
type meta struct {
	pageSize int64
	root     uint64
	pages    uint64 // how many the file has
	txid     uint64
}

// parseMeta reads the used part of a meta page. It reports false for one that is not whole.
func parseMeta(b []byte) (meta, bool) {
	if len(b) < metaSize || order.Uint32(b[16:]) != metaMagic || order.Uint32(b[20:]) != metaVersion {
		return meta{}, false
	}
	sum := fnv.New64a()
	sum.Write(b[16:72])
	m := meta{pageSize: int64(order.Uint32(b[24:])), root: order.Uint64(b[32:]), pages: order.Uint64(b[56:]), txid: order.Uint64(b[64:])}
	return m, sum.Sum64() == order.Uint64(b[72:]) && validPageSize(m.pageSize)
}

func validPageSize(n int64) bool {
	return n >= smallestPage && n <= largestPage && n&(n-1) == 0
}

// pageSize finds the page size of a database: from its first meta page, or, when that is damaged, from the place of the
// second one, as bbolt does. It is a guess when neither can be read.
func pageSize(f io.ReaderAt, size int64) int64 {
	told := func(at int64) (int64, bool) {
		var b [metaSize]byte
		if _, err := f.ReadAt(b[:], at); err != nil || order.Uint32(b[16:]) != metaMagic {
			return 0, false
		}
		n := int64(order.Uint32(b[24:]))
		return n, validPageSize(n)
	}
	if n, ok := told(0); ok {
		return n
	}
	for at := int64(smallestPage); at <= largestPage && at < size; at *= 2 {
		if n, ok := told(at); ok && n == at {
			return n
		}
	}
	return newPageSize
}

// A tree is a bucket and the buckets in it. fetch gives the bytes of a page, with those that belong to it. What
// it gives may be anything.
type tree struct {
	fetch func(id uint64) ([]byte, error)
	pages uint64 // numbers are smaller
	root  uint64
	leaf  []byte // in place of a root page
}

// page is one page, of which the header is known to be sound.
type page []byte

var errPage = errors.New("page that is none")

func checkPage(b []byte) (page, error) {
	if len(b) < pageHeader {
		return nil, fmt.Errorf("%w: it has %d bytes", errPage, len(b))
	}
	p := page(b)
	if k := p.kind(); k != kindBranch && k != kindLeaf {
		return nil, fmt.Errorf("%w: its kind is %#x", errPage, k)
	}
	if pageHeader+p.count()*elementSize > len(p) {
		return nil, fmt.Errorf("%w: it has %d bytes for %d elements", errPage, len(p), p.count())
	}
	return p, nil
}

func (p page) kind() uint16 { return order.Uint16(p[8:]) }
func (p page) count() int   { return int(order.Uint16(p[10:])) }
func (p page) element(i int) []byte {
	return p[pageHeader+i*elementSize:]
}

// cut gives n bytes that begin off bytes after the beginning of an element.
func cut(element []byte, off uint64, n uint32) ([]byte, error) {
	if off > uint64(len(element)) || uint64(n) > uint64(len(element))-off {
		return nil, fmt.Errorf("%w: an element points out of it", errPage)
	}
	return element[off : off+uint64(n) : off+uint64(n)], nil
}

// key gives the key of an element.
func (p page) key(i int) ([]byte, error) {
	e := p.element(i)
	if p.kind() == kindBranch {
		return cut(e, uint64(order.Uint32(e)), order.Uint32(e[4:]))
	}
	return cut(e, uint64(order.Uint32(e[4:])), order.Uint32(e[8:]))
}

// value gives the value of an element of a leaf, and whether that is a bucket.
func (p page) value(i int) ([]byte, bool, error) {
	e := p.element(i)
	v, err := cut(e, uint64(order.Uint32(e[4:]))+uint64(order.Uint32(e[8:])), order.Uint32(e[12:]))
	return v, order.Uint32(e)&flagBucket != 0, err
}

// child gives the page that an element of a branch leads to.
func (p page) child(i int) uint64 { return order.Uint64(p.element(i)[8:]) }

// search gives the first element whose key is not smaller, and whether it is that key.
func (p page) search(key []byte) (at int, exact bool, err error) {
	at = sort.Search(p.count(), func(i int) bool {
		k, kerr := p.key(i)
		if kerr != nil {
			err = kerr
			return true
		}
		return bytes.Compare(k, key) >= 0
	})
	if err != nil || at == p.count() {
		return at, false, err
	}
	k, err := p.key(at)
	return at, bytes.Equal(k, key), err
}

// get fetches a page of the tree.
func (t tree) get(id uint64) (page, error) {
	if id == 0 {
		return checkPage(t.leaf)
	}
	if id < 2 || id >= t.pages {
		return nil, fmt.Errorf("page %d of %d: %w", id, t.pages, errPage)
	}
	b, err := t.fetch(id)
	if err != nil {
		return nil, err
	}
	p, err := checkPage(b)
	if err == nil && order.Uint64(p) != id {
		err = fmt.Errorf("%w: it says that it is page %d", errPage, order.Uint64(p))
	}
	if err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return p, nil
}

// find gives the value of a key, nil when there is none, and whether it is a bucket.
func (t tree) find(key []byte) (value []byte, bucket bool, err error) {
	id := t.root
	for range maxDepth {
		p, err := t.get(id)
		if err != nil {
			return nil, false, err
		}
		at, exact, err := p.search(key)
		if err != nil {
			return nil, false, err
		}
		if p.kind() == kindLeaf {
			if !exact {
				return nil, false, nil
			}
			return p.value(at)
		}
		if !exact && at > 0 {
			at--
		}
		if p.count() == 0 {
			return nil, false, fmt.Errorf("page %d: %w: a branch without elements", id, errPage)
		}
		if id = p.child(at); id == 0 {
			return nil, false, fmt.Errorf("%w: a branch leads to page 0", errPage)
		}
	}
	return nil, false, fmt.Errorf("%w: more than %d lead to a record", errPage, maxDepth)
}

// bucket gives a bucket below this one; ok is false when there is none of that name.
func (t tree) bucket(name []byte) (b tree, ok bool, err error) {
	v, is, err := t.find(name)
	if err != nil || !is {
		return tree{}, false, err
	}
	if len(v) < bucketSize {
		return tree{}, false, fmt.Errorf("%w: bucket %q has %d bytes", errPage, name, len(v))
	}
	return tree{fetch: t.fetch, pages: t.pages, root: order.Uint64(v), leaf: v[bucketSize:]}, true, nil
}

// entry is what a walk comes by.
type entry struct {
	key, value []byte
	bucket     bool
}

// walk gives all keys in order.
func (t tree) walk() (all []entry, err error) {
	left := t.pages + 1 // no more can be in a tree
	var below func(id uint64, depth int) error
	below = func(id uint64, depth int) error {
		if left == 0 || depth > maxDepth {
			return fmt.Errorf("%w: pages lead in a circle", errPage)
		}
		left--
		p, err := t.get(id)
		if err != nil {
			return err
		}
		for i := range p.count() {
			if p.kind() == kindBranch {
				child := p.child(i)
				if child == 0 {
					return fmt.Errorf("%w: a branch leads to page 0", errPage)
				}
				if err := below(child, depth+1); err != nil {
					return err
				}
				continue
			}
			k, err := p.key(i)
			if err != nil {
				return err
			}
			v, is, err := p.value(i)
			if err != nil {
				return err
			}
			all = append(all, entry{k, v, is})
		}
		return nil
	}
	return all, below(t.root, 0)
}
