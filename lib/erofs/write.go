// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Write writes an image of the tree at dir into an empty file. Nothing may change the tree meanwhile. Extended attributes
// that skip accepts are left out, and so is what lies on other file systems. Nothing is synced. An error leaves a part.
func Write(ctx context.Context, w *os.File, dir string, skip func(xattr string) bool) (Info, error) {
	i, err := write(ctx, w, dir, skip)
	if err != nil {
		return i, fmt.Errorf("make an erofs image of %s: %w", dir, err)
	}
	return i, nil
}

func write(ctx context.Context, w *os.File, dir string, skip func(string) bool) (i Info, err error) {
	fd, err := unix.Open(dir, dirFlags, 0)
	if err != nil {
		return i, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return i, err
	}
	r := &reader{ctx: ctx, w: w, skip: skip, blocks: 1, linked: map[uint64]*node{}, dev: st.Dev, buf: make([]byte, 1<<20)}
	root, err := r.directory(fd, nil)
	if err != nil {
		return i, err
	}
	meta := uint32(r.blocks)
	end, err := r.place()
	if err != nil {
		return i, err
	}
	if err := r.inodes(int64(meta)<<blockBits, end); err != nil {
		return i, err
	}
	blocks := uint32(r.blocks)
	if err := w.Truncate(int64(blocks) << blockBits); err != nil {
		return i, err
	}
	// The superblock comes last: without it the file is no image.
	if _, err := w.WriteAt(superblock(uint64(len(r.all)), blocks, meta, uint16(root.number())), 0); err != nil {
		return i, err
	}
	return Info{Inodes: int64(len(r.all)), Size: int64(blocks) << blockBits, Mode: uint16(st.Mode), UID: st.Uid, GID: st.Gid}, nil
}

// place finds a place for each inode and for the directories that are not kept behind theirs. It gives the number of bytes that
// the inodes take.
func (r *reader) place() (int64, error) {
	at := int64(slotSize) // a number of zero means nothing to some programs
	for _, n := range r.all {
		length := 0
		if n.is(unix.S_IFDIR) {
			for _, b := range n.blocksOf() {
				n.size += uint64(len(b))
			}
			if n.size <= maxInner {
				length = int(n.size)
			}
		} else {
			length = len(n.inner)
		}
		// Contents behind an inode lie in one block.
		for head := int64(inodeSize + len(n.xattrs)); length > 0 && (at+head)&(blockSize-1)+int64(length) > blockSize; {
			at += slotSize
		}
		n.at = at
		at += inodeSize + int64(len(n.xattrs)) + int64(length)
		at = (at + slotSize - 1) &^ (slotSize - 1)
	}
	if err := r.advance(uint64(at)); err != nil {
		return 0, err
	}
	for _, n := range r.all {
		if n.is(unix.S_IFDIR) && n.size > maxInner {
			n.block = uint32(r.blocks)
			if err := r.advance(n.size); err != nil {
				return 0, err
			}
		}
	}
	return at, nil
}

// inodes writes the inodes from an offset on, and the directories behind them.
func (r *reader) inodes(from, size int64) error {
	out := bufio.NewWriterSize(io.NewOffsetWriter(r.w, from), 1<<20)
	at := int64(0)
	put := func(data []byte) {
		out.Write(data) // an error stays until the end
		at += int64(len(data))
	}
	upTo := func(next int64) { put(make([]byte, next-at)) }
	for i, n := range r.all {
		inner := n.inner
		if n.is(unix.S_IFDIR) && n.size <= maxInner {
			inner = n.blocksOf()[0]
		}
		upTo(n.at)
		put(n.inode(uint32(i+1), len(inner) > 0))
		put(n.xattrs)
		put(inner)
	}
	upTo((size + blockSize - 1) &^ (blockSize - 1))
	for _, n := range r.all {
		if n.is(unix.S_IFDIR) && n.size > maxInner {
			for _, b := range n.blocksOf() {
				put(b)
			}
			upTo((at + blockSize - 1) &^ (blockSize - 1))
		}
	}
	return out.Flush()
}

// inode is an extended inode. serial is unique in the image.
func (n *node) inode(serial uint32, inner bool) []byte {
	b, le := make([]byte, inodeSize), binary.LittleEndian
	layout := layoutPlain
	if inner {
		layout = layoutInner
	}
	where := noBlock
	switch {
	case n.is(unix.S_IFCHR), n.is(unix.S_IFBLK):
		major, minor := unix.Major(n.st.Rdev), unix.Minor(n.st.Rdev)
		where = minor&0xff | major<<8 | (minor&^0xff)<<12 // new_encode_dev of the kernel
	case n.block > 0:
		where = n.block
	}
	le.PutUint16(b[0:], uint16(extended|layout))
	if len(n.xattrs) > 0 {
		le.PutUint16(b[2:], uint16((len(n.xattrs)-xattrHeader)/4+1))
	}
	le.PutUint16(b[4:], uint16(n.st.Mode))
	le.PutUint64(b[8:], n.size)
	le.PutUint32(b[16:], where)
	le.PutUint32(b[20:], serial)
	le.PutUint32(b[24:], n.st.Uid)
	le.PutUint32(b[28:], n.st.Gid)
	le.PutUint64(b[32:], uint64(n.st.Mtim.Sec))
	le.PutUint32(b[40:], uint32(n.st.Mtim.Nsec))
	le.PutUint32(b[44:], n.names)
	return b
}
