// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	blockSize  = 512 << 10 // small enough to be still in the cache when it is hashed and written
	blockCount = 6
)

// A block travels from the decompressor to the hasher to the reader, and back.
type block struct {
	buf  *[blockSize]byte // from its first use on: a small layer needs one
	data []byte           // a part of buf
	err  error            // what ended the stream after data
}

// buffers are those of the blocks and files of layers that have ended: clearing new ones takes longer than a small layer does.
var buffers = sync.Pool{New: func() any { return new([blockSize]byte) }}

// stream decompresses and hashes ahead of its reader, each in a goroutine of its own.
type stream struct {
	empty, plain, hashed chan *block
	stop                 chan struct{}
	running              sync.WaitGroup
	sum                  hash.Hash
	cur                  *block
	rest                 []byte
	blocks               [blockCount]block // all, wherever they travel
	total                int64             // bytes given to the reader
}

// newStream starts to read r; max bounds the bytes read, 0 does not.
func newStream(r io.Reader, max int64) *stream {
	s := &stream{
		empty:  make(chan *block, blockCount),
		plain:  make(chan *block, blockCount),
		hashed: make(chan *block, blockCount),
		stop:   make(chan struct{}),
		sum:    sha256.New(),
	}
	for i := range s.blocks {
		s.empty <- &s.blocks[i]
	}
	s.running.Go(func() { s.fill(r, max) })
	s.running.Go(func() {
		for b := range s.plain {
			s.sum.Write(b.data)
			s.hashed <- b
		}
	})
	return s
}

// fill is the decompressor's goroutine. The channels hold all blocks, so only a lack of empty ones
// makes it wait.
func (s *stream) fill(r io.Reader, max int64) {
	defer close(s.plain)
	var total int64
	for {
		var b *block
		select {
		case <-s.stop:
			return
		case b = <-s.empty:
		}
		if b.buf == nil {
			b.buf = buffers.Get().(*[blockSize]byte)
		}
		n, err := readFull(r, b.buf[:])
		b.data, b.err = b.buf[:n], err
		if total += int64(n); max > 0 && total > max {
			b.err = fmt.Errorf("layer unpacks to more than %d bytes: %w", max, errdefs.ErrInvalidArgument)
		}
		s.plain <- b
		if b.err != nil {
			return
		}
	}
}

// readFull is io.ReadFull that keeps the reader's own error, so that an early end stays
// distinguishable from an end.
func readFull(r io.Reader, p []byte) (n int, err error) {
	for idle := 0; n < len(p) && err == nil; {
		var m int
		m, err = r.Read(p[n:])
		n += m
		if m > 0 || err != nil {
			idle = 0
		} else if idle++; idle == 100 {
			err = io.ErrNoProgress
		}
	}
	return n, err
}

// Read gives the uncompressed bytes.
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(s.rest) == 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	s.total += int64(n)
	return n, nil
}

// next makes the next block the current one.
func (s *stream) next() error {
	if s.cur != nil {
		if s.cur.err != nil {
			return s.cur.err
		}
		s.empty <- s.cur
	}
	s.cur = <-s.hashed
	s.rest = s.cur.data
	return nil
}

// drain reads to the end and gives the digest of everything that was read.
func (s *stream) drain() (digest.Digest, error) {
	for {
		s.total += int64(len(s.rest))
		s.rest = nil
		if err := s.next(); errors.Is(err, io.EOF) {
			return digest.NewDigest(digest.SHA256, s.sum), nil
		} else if err != nil {
			return "", err
		}
	}
}

// close ends the goroutines; it waits for a read of the source that is under way.
func (s *stream) close() {
	close(s.stop)
	s.running.Wait()
	for i := range s.blocks {
		if b := &s.blocks[i]; b.buf != nil {
			buffers.Put(b.buf)
			b.buf, b.data = nil, nil
		}
	}
	s.rest = nil
}
