// SPDX-License-Identifier: Apache-2.0

// Package verity protects files with fs-verity (the kernel's Documentation/filesystems/fsverity.rst): nobody can write such
// a file any more, and a read of a block that is not as it was is EIO. Ext4 and f2fs have it where they were made with the
// feature verity, and btrfs always.
//
// A digest is that of fsverity(1): of the root of a tree of SHA-256 over blocks of 4096 bytes without salt, and of the size.
package verity

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// absent is what an ioctl says where there is no fs-verity: by the file system, by the kernel or by its feature, without
// SHA-256, with other blocks, only with a signature (fs.verity.require_signatures), or, of a measurement, on this file.
var absent = []error{unix.ENOTTY, unix.EOPNOTSUPP, unix.ENOPKG, unix.EINVAL, unix.EPERM, unix.ENODATA}

func isAbsent(err error) bool {
	return slices.ContainsFunc(absent, func(e error) bool { return errors.Is(err, e) })
}

// patience bounds how long Protect waits for others to close the file, and pause is how often it asks.
const (
	patience = 3 * time.Second
	pause    = 5 * time.Millisecond
)

// Protect gives fs-verity to a file that nobody has open for writing, and its digest. The contents are written to the disk
// for that, but it is not durable. Where there is no fs-verity the digest is empty, and the file as it was. A file that has
// it already is success. It ends when its context does; the kernel may then still be at it, so that the file gets fs-verity later.
func Protect(ctx context.Context, path string) (digest.Digest, error) {
	if err := context.Cause(ctx); err != nil {
		return "", err
	}
	// A program that was being started when the file was closed has it open until it runs.
	syscall.ForkLock.RLock()
	f, err := os.Open(path)
	syscall.ForkLock.RUnlock()
	if err != nil {
		return "", err
	}
	type result struct {
		digest digest.Digest
		err    error
	}
	done := make(chan result, 1)
	go func() { // only the end of the process ends the kernel's reading
		defer f.Close()
		dg, err := protect(ctx, f)
		done <- result{dg, err}
	}()
	select {
	case r := <-done:
		return r.digest, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func protect(ctx context.Context, f *os.File) (digest.Digest, error) {
	err := insist(ctx, func() error {
		arg := unix.FsverityEnableArg{Version: 1, Hash_algorithm: unix.FS_VERITY_HASH_ALG_SHA256, Block_size: blockSize}
		return ioctl(f, unix.FS_IOC_ENABLE_VERITY, unsafe.Pointer(&arg))
	})
	switch {
	case isAbsent(err):
		return "", nil
	case err != nil && !errors.Is(err, unix.EEXIST):
		return "", &os.PathError{Op: "enable fs-verity", Path: f.Name(), Err: err}
	}
	return measure(f)
}

// insist calls fn until the file is free, or patience ends. A child that this process clones into a user namespace (lib/mount)
// has copies of all descriptors for a moment, also of one that was closed for writing, which no lock of package syscall covers;
// another process may be giving fs-verity to the same file.
func insist(ctx context.Context, fn func() error) error {
	for end := time.Now().Add(patience); ; {
		err := fn()
		if !errors.Is(err, unix.ETXTBSY) && !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// Measure gives the digest of a file that has fs-verity, as the kernel knows it without reading; of any other it is empty.
func Measure(path string) (digest.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return measure(f)
}

func measure(f *os.File) (digest.Digest, error) {
	// struct fsverity_digest, with room for the largest.
	var d struct {
		unix.FsverityDigest
		sum [64]byte
	}
	d.Size = uint16(len(d.sum))
	err := ioctl(f, unix.FS_IOC_MEASURE_VERITY, unsafe.Pointer(&d))
	switch {
	case isAbsent(err):
		return "", nil
	case err != nil:
		return "", &os.PathError{Op: "measure fs-verity", Path: f.Name(), Err: err}
	}
	algorithm := digest.SHA256
	if d.Algorithm == unix.FS_VERITY_HASH_ALG_SHA512 {
		algorithm = digest.SHA512
	}
	return digest.NewDigestFromBytes(algorithm, d.sum[:d.Size]), nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
