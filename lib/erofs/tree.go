// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	dirFlags  = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fileFlags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC

	// maxInner is up to how many bytes the contents of a file, a link or a directory are kept behind its inode.
	maxInner = 1024
	// maxHeld bounds the contents of small files that are held in memory until the inodes are written. Further ones get blocks.
	maxHeld = 32 << 20
)

// node is an inode.
type node struct {
	st     unix.Stat_t
	xattrs []byte // as they are behind the inode
	size   uint64
	block  uint32 // of the contents, unless they are inner
	inner  []byte // contents behind the inode
	names  uint32 // of a directory, subdirectories and two
	dir    []entry
	parent *node
	at     int64 // from the beginning of the inodes
}

type entry struct {
	name string
	*node
}

func (n *node) is(kind uint32) bool { return n.st.Mode&unix.S_IFMT == kind }

func (n *node) number() uint64 { return uint64(n.at) >> slotBits }

// reader makes nodes of a tree, and writes the contents of its files.
type reader struct {
	ctx    context.Context
	w      *os.File
	skip   func(xattr string) bool
	blocks int64 // written
	held   int
	begun  int64 // up to where the disk has begun to write
	all    []*node
	linked map[uint64]*node // with several names, by inode
	dev    uint64
	buf    []byte
}

// directory adds an open directory with all that is in it. It closes the directory.
func (r *reader) directory(fd int, parent *node) (*node, error) {
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	n := &node{names: 2, parent: parent}
	if parent == nil {
		n.parent = n
	}
	if err := unix.Fstat(fd, &n.st); err != nil {
		return nil, err
	}
	var err error
	if n.xattrs, err = r.attributes("/proc/self/fd/" + strconv.Itoa(fd) + "/."); err != nil {
		return nil, err
	}
	r.all = append(r.all, n)
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := context.Cause(r.ctx); err != nil {
			return nil, err
		}
		one, err := r.name(fd, name, n)
		if err != nil {
			return nil, fmt.Errorf("%.300q: %w", name, err)
		}
		if one != nil {
			n.dir = append(n.dir, entry{name, one})
		}
	}
	return n, nil
}

// name adds what a name in a directory is. What lies on another file system is left out.
func (r *reader) name(dir int, name string, parent *node) (*node, error) {
	n := &node{}
	if err := unix.Fstatat(dir, name, &n.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	if n.st.Dev != r.dev {
		return nil, nil
	}
	if n.is(unix.S_IFDIR) {
		fd, err := unix.Openat(dir, name, dirFlags, 0)
		if err != nil {
			return nil, err
		}
		parent.names++
		return r.directory(fd, parent)
	}
	if n.st.Nlink > 1 {
		if first, ok := r.linked[n.st.Ino]; ok {
			first.names++
			return first, nil
		}
		r.linked[n.st.Ino] = n
	}
	n.names = 1
	r.all = append(r.all, n)
	var err error
	if n.xattrs, err = r.attributes("/proc/self/fd/" + strconv.Itoa(dir) + "/" + name); err != nil {
		return nil, err
	}
	switch {
	case n.is(unix.S_IFREG):
		fd, err := unix.Openat(dir, name, fileFlags, 0)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		return n, r.file(n, f)
	case n.is(unix.S_IFLNK):
		target := make([]byte, unix.PathMax)
		length, err := unix.Readlinkat(dir, name, target)
		if err != nil {
			return nil, err
		}
		return n, r.contents(n, target[:length])
	}
	return n, nil
}

// contents gives a node what it has, behind the inode or in blocks of its own.
func (r *reader) contents(n *node, data []byte) error {
	n.size = uint64(len(data))
	if len(data) <= maxInner && r.held+len(data) <= maxHeld {
		n.inner = slices.Clone(data)
		r.held += len(data)
		return nil
	}
	n.block = uint32(r.blocks)
	_, err := r.w.WriteAt(data, r.blocks<<blockBits)
	return errors.Join(err, r.advance(n.size))
}

// advance has the next contents begin behind those that were written.
func (r *reader) advance(size uint64) error {
	r.blocks += int64((size + blockSize - 1) >> blockBits)
	if r.blocks >= int64(noBlock) {
		return fmt.Errorf("more than %d blocks: %w", noBlock, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (r *reader) file(n *node, f *os.File) error {
	n.size = uint64(n.st.Size)
	if n.size <= maxInner {
		data, err := io.ReadAll(io.LimitReader(f, maxInner+1))
		if err == nil && len(data) != int(n.size) {
			err = errChanged
		}
		return errors.Join(err, r.contents(n, data))
	}
	n.block = uint32(r.blocks)
	if err := r.copy(f, r.blocks<<blockBits, n.st.Size); err != nil {
		return err
	}
	if err := r.advance(n.size); err != nil {
		return err
	}
	r.writeOut()
	return nil
}

// writeSoon is how many bytes of the image are worth an I/O of their own: the disk begins with them while the rest is made.
const writeSoon = 8 << 20

// writeOut has the disk begin.
func (r *reader) writeOut() {
	if end := r.blocks << blockBits; end-r.begun >= writeSoon {
		// A hint, whose failure means nothing: a later sync finds the less to do.
		unix.SyncFileRange(int(r.w.Fd()), r.begun, end-r.begun, unix.SYNC_FILE_RANGE_WRITE)
		r.begun = end
	}
}

var errChanged = fmt.Errorf("it changes while it is read: %w", errdefs.ErrFailedPrecondition)

// copy writes the contents of a file at an offset of the image. Its holes are holes there.
func (r *reader) copy(f *os.File, to, size int64) error {
	for at := int64(0); at < size; {
		if err := context.Cause(r.ctx); err != nil {
			return err
		}
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		end := size
		switch {
		case err == unix.ENXIO:
			return nil // a hole up to the end
		case err == unix.EINVAL:
			data = at // the file system does not tell
		case err != nil:
			return err
		default:
			if end, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil {
				return err
			}
		}
		if at, err = r.span(f, data, min(end, size), to); err != nil {
			return err
		}
	}
	return nil
}

// span copies a part of a file, in the kernel where it can.
func (r *reader) span(f *os.File, from, end, to int64) (int64, error) {
	inKernel := true
	for from < end {
		var n int
		var err error
		if inKernel {
			in, out := from, to+from
			n, err = unix.CopyFileRange(int(f.Fd()), &in, int(r.w.Fd()), &out, int(min(end-from, 1<<30)), 0)
			if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.EIO) {
				inKernel = false
				continue
			}
		} else {
			n, err = f.ReadAt(r.buf[:min(int64(len(r.buf)), end-from)], from)
			if n > 0 {
				_, err = r.w.WriteAt(r.buf[:n], to+from)
			}
		}
		if err != nil && err != io.EOF {
			return from, err
		}
		if n == 0 {
			return from, errChanged
		}
		from += int64(n)
	}
	return from, nil
}

// prefixes of names of attributes, each of which has a number.
var prefixes = []struct {
	text  string
	index byte
	whole bool // it is the name
}{
	{"user.", 1, false}, {"system.posix_acl_access", 2, true}, {"system.posix_acl_default", 3, true}, {"trusted.", 4, false}, {"security.", 6, false},
}

// attributes gives the attributes of a file as they are behind its inode.
func (r *reader) attributes(path string) ([]byte, error) {
	n, err := unix.Llistxattr(path, nil)
	if n == 0 || err == unix.ENOTSUP {
		return nil, nil
	}
	list := make([]byte, 64<<10)
	if err == nil {
		n, err = unix.Llistxattr(path, list)
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var all []byte
	for _, name := range names {
		if r.skip(name) {
			continue
		}
		at := slices.IndexFunc(prefixes, func(p struct {
			text  string
			index byte
			whole bool
		}) bool {
			return name == p.text || !p.whole && strings.HasPrefix(name, p.text)
		})
		if at < 0 {
			return nil, fmt.Errorf("extended attribute %q: erofs has none of that name: %w", name, errdefs.ErrNotImplemented)
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("extended attribute %q: %w", name, err)
		}
		rest := strings.TrimPrefix(name, prefixes[at].text)
		all = append(all, byte(len(rest)), prefixes[at].index)
		all = binary.LittleEndian.AppendUint16(all, uint16(n))
		all = append(append(all, rest...), value[:n]...)
		all = append(all, make([]byte, -len(all)&3)...)
	}
	if len(all) == 0 {
		return nil, nil
	}
	all = append(make([]byte, xattrHeader), all...)
	if (len(all)-xattrHeader)/4+1 > 1<<16-1 {
		return nil, fmt.Errorf("extended attributes of %d bytes: %w", len(all), errdefs.ErrInvalidArgument)
	}
	return all, nil
}

// xattrHeader is the size of what is before the attributes of an inode, in bytes.
const xattrHeader = 12

// blocksOf gives the contents of a directory, block by block; all but the last one are whole. The names are sorted. The
// inodes need no numbers yet for their length.
func (n *node) blocksOf() (blocks [][]byte) {
	all := append([]entry{{".", n}, {"..", n.parent}}, n.dir...)
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	for len(all) > 0 {
		used, count := 0, 0
		for count < len(all) && used+entrySize+len(all[count].name) <= blockSize {
			used += entrySize + len(all[count].name)
			count++
		}
		block := make([]byte, 0, blockSize)
		name := count * entrySize
		for _, e := range all[:count] {
			block = binary.LittleEndian.AppendUint64(block, e.number())
			block = binary.LittleEndian.AppendUint16(block, uint16(name))
			block = append(block, fileType(e.st.Mode), 0)
			name += len(e.name)
		}
		for _, e := range all[:count] {
			block = append(block, e.name...)
		}
		if all = all[count:]; len(all) > 0 {
			block = block[:blockSize]
		}
		blocks = append(blocks, block)
	}
	return blocks
}

const entrySize = 12

// fileType is the type of a file in a directory.
func fileType(mode uint32) byte {
	return map[uint32]byte{unix.S_IFREG: 1, unix.S_IFDIR: 2, unix.S_IFCHR: 3, unix.S_IFBLK: 4, unix.S_IFIFO: 5, unix.S_IFSOCK: 6, unix.S_IFLNK: 7}[mode&unix.S_IFMT]
}
