// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
)

const (
	blockBits = 12
	blockSize = 1 << blockBits
	readSize  = 64 * blockSize // at once
)

// Digest reads a file, of which it gives the digest that [Protect] gives. It needs nothing of the kernel. It ends when its
// context does.
func Digest(ctx context.Context, r io.Reader) (digest.Digest, error) {
	var t tree
	buf := make([]byte, readSize)
	var size uint64
	for {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		n, err := io.ReadFull(r, buf)
		size += uint64(n)
		clear(buf[n:])
		for block := range slices.Chunk(buf[:(n+blockSize-1)&^(blockSize-1)], blockSize) {
			t.add(0, block)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return "", err
		}
	}
	// struct fsverity_descriptor
	var d [256]byte
	d[0], d[1], d[2] = 1, 1, blockBits // version, SHA-256
	binary.LittleEndian.PutUint64(d[8:], size)
	copy(d[16:], t.root())
	sum := sha256.Sum256(d[:])
	return digest.NewDigestFromBytes(digest.SHA256, sum[:]), nil
}

// tree is a Merkle tree that is made from left to right: of each level the block that is not full.
type tree [][]byte

// add puts the sum of a block into a level, and that of a level's block, when it is full, into the next.
func (t *tree) add(level int, block []byte) {
	if level == len(*t) {
		*t = append(*t, make([]byte, 0, blockSize))
	}
	if l := (*t)[level]; len(l) == blockSize {
		(*t)[level] = l[:0]
		t.add(level+1, l)
	}
	sum := sha256.Sum256(block)
	(*t)[level] = append((*t)[level], sum[:]...)
}

// root ends the tree, whose root is the one sum of its last level; of nothing there is none.
func (t *tree) root() []byte {
	for level := 0; level < len(*t); level++ {
		l := (*t)[level]
		if level == len(*t)-1 && len(l) == sha256.Size {
			return l
		}
		t.add(level+1, append(l, make([]byte, blockSize-len(l))...))
	}
	return nil
}
