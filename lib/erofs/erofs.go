// SPDX-License-Identifier: Apache-2.0

// Package erofs writes file trees as images of EROFS, a read-only file system that the kernel mounts from a device or,
// since Linux 6.12, from a file (the kernel's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h).
//
// An image is not compressed and has no feature that Linux 5.4 does not know. It begins with the superblock; then come the
// contents of files in whole blocks, then the inodes with the contents of small files, links and directories, and in the
// end larger directories. The same tree gives the same image, but for the numbers of blocks that the tree's file system
// says are holes.
package erofs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	blockBits = 12
	blockSize = 1 << blockBits
	slotBits  = 5 // an inode's number is its place in units of 32 bytes
	slotSize  = 1 << slotBits

	superOffset = 1024
	superSize   = 128
	magic       = 0xE0F5E1E2
	inodeSize   = 64 // of an extended inode
	noBlock     = ^uint32(0)

	featureChecksum = 1 << 0
	featureMtime    = 1 << 1 // the times of inodes are those of the last write

	extended    = 1 << 0
	layoutPlain = 0 << 1 // contents in blocks
	layoutInner = 2 << 1 // contents behind the inode
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Info is what an image says of itself.
type Info struct {
	Inodes   int64
	Size     int64 // bytes of the file system, without what may be behind it
	Mode     uint16
	UID, GID uint32 // of the root
}

// superblock fills in the first block of an image.
func superblock(inodes uint64, blocks, metaBlock uint32, root uint16) []byte {
	block := make([]byte, blockSize)
	s := block[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(s[0:], magic)
	le.PutUint32(s[8:], featureChecksum|featureMtime)
	s[12] = blockBits
	le.PutUint16(s[14:], root)
	le.PutUint64(s[16:], inodes)
	le.PutUint32(s[36:], blocks)
	le.PutUint32(s[40:], metaBlock)
	le.PutUint32(s[4:], checksum(s))
	return block
}

// checksum is of a block from the superblock on, with zero in the place of the checksum.
func checksum(s []byte) uint32 {
	s = append([]byte{}, s...)
	clear(s[4:8])
	return ^crc32.Checksum(s, castagnoli)
}

// Look reads what an image says of itself. What is no whole image is errdefs.ErrDataLoss.
func Look(path string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	i, err := look(f)
	if err != nil {
		return i, fmt.Errorf("erofs image %s: %w: %w", path, err, errdefs.ErrDataLoss)
	}
	return i, nil
}

func look(f *os.File) (i Info, err error) {
	block := make([]byte, blockSize)
	if _, err := io.ReadFull(f, block); err != nil {
		return i, err
	}
	s, le := block[superOffset:], binary.LittleEndian
	if le.Uint32(s) != magic {
		return i, fmt.Errorf("no superblock")
	}
	if s[12] != blockBits || le.Uint32(s[8:])&featureChecksum == 0 {
		return i, fmt.Errorf("blocks of %d bits, features %#x: not written by this program", s[12], le.Uint32(s[8:]))
	}
	if le.Uint32(s[4:]) != checksum(s) {
		return i, fmt.Errorf("wrong checksum")
	}
	i.Inodes, i.Size = int64(le.Uint64(s[16:])), int64(le.Uint32(s[36:]))<<blockBits
	st, err := f.Stat()
	if err != nil || st.Size() < i.Size {
		return i, fmt.Errorf("it is cut off: %d bytes of %d: %w", st.Size(), i.Size, err)
	}
	root := make([]byte, inodeSize)
	at := int64(le.Uint32(s[40:]))<<blockBits + int64(le.Uint16(s[14:]))<<slotBits
	if _, err := f.ReadAt(root, at); err != nil {
		return i, fmt.Errorf("root: %w", err)
	}
	i.Mode, i.UID, i.GID = le.Uint16(root[4:]), le.Uint32(root[24:]), le.Uint32(root[28:])
	if i.Mode&unix.S_IFMT != unix.S_IFDIR {
		return i, fmt.Errorf("the root is no directory")
	}
	return i, nil
}
