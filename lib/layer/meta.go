// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	xattrRecord   = "SCHILY.xattr."
	maxXattr      = 64 << 10 // XATTR_SIZE_MAX, of one value
	maxXattrNames = 64 << 10 // XATTR_LIST_MAX, of all names
)

// meta is what an inode has besides its data.
type meta struct {
	mode     uint32
	uid, gid int
	times    [2]unix.Timespec // access, change of data
	xattrs   []xattr
}

type xattr struct{ name, value string }

// metaOf checks a header's numbers and takes them over.
func metaOf(hdr *tar.Header) (meta, error) {
	for _, id := range []int{hdr.Uid, hdr.Gid} {
		if id < 0 || int64(id) >= math.MaxUint32 { // the last one means "no change" to the kernel
			return meta{}, invalid("owner %d:%d does not exist on Linux", hdr.Uid, hdr.Gid)
		}
	}
	m := meta{mode: uint32(hdr.Mode) & 0o7777, uid: hdr.Uid, gid: hdr.Gid}
	atime := hdr.AccessTime
	if atime.IsZero() {
		atime = hdr.ModTime
	}
	m.times = [2]unix.Timespec{timespec(atime), timespec(hdr.ModTime)}
	names := 0
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || HostXattr(name) {
			continue
		}
		if names += len(name) + 1; name == "" || len(name) > maxName || names > maxXattrNames {
			return meta{}, invalid("extended attribute %q: too many or too long names", short(name))
		}
		if len(value) > maxXattr {
			return meta{}, invalid("extended attribute %q of %d bytes", name, len(value))
		}
		m.xattrs = append(m.xattrs, xattr{name, value})
	}
	return m, nil
}

func timespec(t time.Time) unix.Timespec {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	ts := unix.Timespec{Nsec: int64(t.Nanosecond())}
	ts.Sec = t.Unix()
	return ts
}

// HostXattr tells whether an extended attribute speaks to the host's kernel rather than to the programs of an image, so
// that no layer has it: those of overlayfs, of SELinux, IMA and EVM, and NFSv4 ACLs.
func HostXattr(name string) bool {
	switch name {
	case "security.selinux", "security.ima", "security.evm", "system.nfs4_acl":
		return true
	}
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// setXattrs sets attributes. One that the file system cannot keep is left out, unless it gives
// capabilities; so is a user attribute of a thing that cannot have one.
func setXattrs(xattrs []xattr, kind uint32, set func(name string, value []byte) error) error {
	for _, x := range xattrs {
		err := set(x.name, []byte(x.value))
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOTSUP) && x.name != "security.capability":
		case errors.Is(err, unix.EPERM) && strings.HasPrefix(x.name, "user.") && kind != unix.S_IFREG && kind != unix.S_IFDIR:
		default:
			return fmt.Errorf("set extended attribute %q: %w", x.name, refused(err))
		}
	}
	return nil
}

// refused gives an error of the kernel its kind: that what the layer asks for cannot be is the layer's
// fault, and all else that of the machine.
func refused(err error) error {
	for _, no := range []unix.Errno{unix.EINVAL, unix.ERANGE, unix.E2BIG, unix.ENAMETOOLONG, unix.EMLINK} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return err
}

// futimens sets the times of an open file; x/sys has no wrapper that takes a descriptor alone and
// nanoseconds.
func futimens(fd int, times *[2]unix.Timespec) error {
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("set times: %w", errno)
	}
	return nil
}
