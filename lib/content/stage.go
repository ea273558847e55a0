// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// Staged is a blob whose digest is not known until all of it has been written, or whose bytes come once, from
// a stream. Want of room is a [*state.RoomError]. Its file has no name (open(2), O_TMPFILE) until Place, so a killed process leaves nothing of it.
type Staged struct {
	d    *state.Dir
	f    *os.File
	alg  digest.Algorithm
	sum  hash.Hash
	size int64
}

// Stage makes an empty blob that will be named by a digest of this algorithm. The file system must know files
// without a name, as all do that can carry overlayfs.
func Stage(d *state.Dir, alg digest.Algorithm) (*Staged, error) {
	dir := d.Path("content", "ingest")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("content: %w", state.NoRoom(err, dir))
	}
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("content: %w", state.NoRoom(err, dir))
	}
	return &Staged{d: d, f: f, alg: alg, sum: alg.Hash()}, nil
}

// Write implements io.Writer.
func (s *Staged) Write(p []byte) (int, error) {
	n, err := s.f.Write(p)
	s.sum.Write(p[:n])
	s.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("content: %w", state.NoRoom(err, s.f.Name()))
	}
	return n, nil
}

// Descriptor gives the digest and the size, in bytes, of what has been written so far.
func (s *Staged) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.NewDigest(s.alg, s.sum), Size: s.size}
}

// Place puts the blob in place, where it stays unrecorded until Put, or leaves it to the file that is there
// already if that is whole. It syncs nothing. The caller has the digest on a lease and holds no lock that
// ranks above a blob's; outer is its innermost lock, or nil.
func (s *Staged) Place(ctx context.Context, outer *lock.Lock) (err error) {
	defer func() { err = state.NoRoom(err, s.f.Name()) }()
	desc := s.Descriptor()
	i, err := Begin(ctx, s.d, outer, desc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	if i.Complete() {
		err := i.Commit()
		if !errdefs.IsFailedPrecondition(err) {
			return err
		}
		// It was damaged, and has been removed.
		if err := os.MkdirAll(i.dir(), 0o700); err != nil {
			return fmt.Errorf("content %q: %w", desc.Digest, err)
		}
	}
	if err := s.place(i); err != nil {
		return fmt.Errorf("content %q: %w", desc.Digest, err)
	}
	return nil
}

func (s *Staged) place(i *Ingest) error {
	markVerified(s.f)
	if err := s.f.Chmod(0o444); err != nil {
		return err
	}
	named := filepath.Join(i.dir(), "whole")
	if err := os.Remove(named); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// A link by the descriptor itself needs a capability; this form needs none (open(2), O_TMPFILE).
	from := "/proc/self/fd/" + strconv.Itoa(int(s.f.Fd()))
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, named, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: from, New: named, Err: err}
	}
	crash.Point("content.linked")
	return i.place(named)
}

// Close lets go of the file. What was not placed is gone.
func (s *Staged) Close() error { return s.f.Close() }
