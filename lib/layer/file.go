// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// writeSoon is the size from which on a file is worth an I/O of its own: the disk begins with it while the
// rest of the layer is being unpacked.
const writeSoon = 64 << 10

func (u *unpacker) file(ctx context.Context, hdr *tar.Header, r io.Reader, m meta, parent, base string) (err error) {
	if hdr.Size < 0 || hdr.Size > maxFile {
		return invalid("file of %d bytes", hdr.Size)
	}
	fd := -1
	perm := m.mode & 0o777
	err = u.place(parent, base, func(pfd int) (err error) {
		fd, err = openat(pfd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		return err
	})
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	defer func() {
		if cerr := unix.Close(fd); err == nil && cerr != nil && cerr != unix.EINTR {
			err = fmt.Errorf("close: %w", cerr)
		}
	}()
	if isSparse(hdr) {
		err = u.copySparse(ctx, fd, r, hdr.Size)
	} else {
		err = u.copy(ctx, fd, r)
	}
	if err != nil {
		return err
	}
	if hdr.Size >= writeSoon && !u.transient {
		// A hint, whose failure means nothing: a later sync finds the less to do.
		unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	if u.foreign || m.uid != u.euid || m.gid != u.egid {
		if err := unix.Fchown(fd, m.uid, m.gid); err != nil {
			return fmt.Errorf("chown to %d:%d: %w", m.uid, m.gid, err)
		}
	}
	if u.foreign || m.mode&^0o777 != 0 || perm&u.umask != 0 {
		if err := unix.Fchmod(fd, m.mode); err != nil {
			return fmt.Errorf("chmod to %o: %w", m.mode, err)
		}
	}
	if err := setXattrs(m.xattrs, unix.S_IFREG, func(name string, value []byte) error {
		return unix.Fsetxattr(fd, name, value, 0)
	}); err != nil {
		return err
	}
	return futimens(fd, &m.times)
}

func (u *unpacker) copy(ctx context.Context, fd int, r io.Reader) error {
	for {
		n, rerr := r.Read(u.buf[:])
		if err := write(fd, u.buf[:n]); err != nil {
			return err
		}
		if rerr == io.EOF {
			return nil
		}
		if rerr != nil {
			return rerr
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// isSparse tells whether the reader makes up zeros for the holes of this file.
func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for name := range hdr.PAXRecords {
		if strings.HasPrefix(name, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// copySparse leaves out blocks of zeros, so a small archive cannot fill the disk. What the sparse files
// of a layer claim together is bounded as one file is, because their zeros cost time.
func (u *unpacker) copySparse(ctx context.Context, fd int, r io.Reader, size int64) error {
	if u.sparse += size; u.sparse > maxFile {
		return invalid("sparse files of %d bytes together", u.sparse)
	}
	for at := int64(0); ; {
		n, rerr := readFull(r, u.buf[:])
		if err := writeData(fd, u.buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return rerr
		}
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		return fmt.Errorf("set size %d: %w", size, err)
	}
	return nil
}

// writeData writes what is not zero of p at an offset.
func writeData(fd int, p []byte, at int64) error {
	const page = 4096
	hole := func(p []byte) bool {
		var zero [page]byte
		return bytes.Equal(p, zero[:len(p)])
	}
	for len(p) > 0 {
		n, isHole := 0, hole(p[:min(page, len(p))])
		for n < len(p) && hole(p[n:min(n+page, len(p))]) == isHole {
			n = min(n+page, len(p))
		}
		if !isHole {
			if _, err := unix.Seek(fd, at, io.SeekStart); err != nil {
				return fmt.Errorf("seek: %w", err)
			}
			if err := write(fd, p[:n]); err != nil {
				return err
			}
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

func write(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("write: %w", err)
		}
		p = p[max(n, 0):]
	}
	return nil
}

func (u *unpacker) device(parent, base string, m meta, kind uint32, dev uint64) error {
	return u.node(parent, base, m, kind, func(pfd int) error {
		return unix.Mknodat(pfd, base, kind|m.mode&0o777, int(dev))
	})
}

// node makes something that is neither a file nor a directory, and cannot be opened to be changed.
func (u *unpacker) node(parent, base string, m meta, kind uint32, create func(pfd int) error) error {
	if err := u.place(parent, base, create); err != nil {
		return fmt.Errorf("make %s: %w", kindName(kind), err)
	}
	pfd, err := u.fd(parent)
	if err != nil {
		return err
	}
	if u.foreign || m.uid != u.euid || m.gid != u.egid {
		if err := unix.Fchownat(pfd, base, m.uid, m.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("chown to %d:%d: %w", m.uid, m.gid, err)
		}
	}
	if kind != unix.S_IFLNK && (u.foreign || m.mode&^0o777 != 0 || m.mode&u.umask != 0) {
		if err := chmodNode(pfd, base, m.mode); err != nil {
			return fmt.Errorf("chmod to %o: %w", m.mode, err)
		}
	}
	// There is no lsetxattr relative to a descriptor before 6.13.
	at := "/proc/self/fd/" + strconv.Itoa(pfd) + "/" + base
	if err := setXattrs(m.xattrs, kind, func(name string, value []byte) error {
		return unix.Lsetxattr(at, name, value, 0)
	}); err != nil {
		return err
	}
	ts := []unix.Timespec{m.times[0], m.times[1]}
	if err := unix.UtimesNanoAt(pfd, base, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// chmodNode changes the mode without following a link that somebody may have put there. fchmodat2 is
// 6.6; before, /proc changes what a path-only descriptor stands for.
func chmodNode(pfd int, base string, mode uint32) error {
	err := unix.Fchmodat(pfd, base, mode, unix.AT_SYMLINK_NOFOLLOW)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	fd, err := openat(pfd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFBLK:
		return "block device"
	}
	return "character device"
}
