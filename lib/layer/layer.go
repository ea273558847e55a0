// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Options says what a layer is and how it is unpacked.
type Options struct {
	MediaType string // of the stream; empty: the first bytes decide alone
	MaxSize   int64  // most bytes of uncompressed tar; 0: any number
	// UserXattr marks opaque directories with user.overlay.opaque, for an overlay mounted with the option
	// userxattr, as one in a user namespace must be.
	UserXattr bool
	// Transient says that the directory is read and thrown away soon: nothing of it is worth being written to the disk.
	Transient bool
	// Stop, when set, is called after an error: it makes a read of the stream that is under way return.
	Stop func()
}

// Result is what Apply has seen and made.
type Result struct {
	DiffID digest.Digest // of the whole uncompressed stream, padding after the archive's end included
	Bytes  int64         // length of that stream
	Size   int64         // bytes that the unpacked directory occupies on the disk, as du counts
	Inodes int64         // inodes of the unpacked directory, itself included
	// Implied is what Inherit makes good before the layer is stacked on others.
	Implied Implied
}

// Apply unpacks one layer into dir, which must exist and be empty and becomes an overlayfs lower layer.
// r is compressed or not, see [Decompress]; after success it has been read to its end. Nothing outside
// dir is written or read. Nothing is synced.
//
// An entry that no honest layer has (a name that leaves the layer, a path through a file, a size, owner or
// device number that Linux does not have) is errdefs.ErrInvalidArgument and named by the error. A stream
// that ends early is io.ErrUnexpectedEOF. After an error dir holds a part of the layer and must be thrown
// away. After an error or the end of ctx Apply waits for at most one read of r that is under way.
func Apply(ctx context.Context, r io.Reader, dir string, opt Options) (_ Result, err error) {
	u, err := newUnpacker(dir, opt)
	if err != nil {
		return Result{}, err
	}
	defer u.close()
	plain, err := Decompress(r, opt.MediaType)
	if err != nil {
		return Result{}, err
	}
	defer plain.Close()
	s := newStream(plain, opt.MaxSize)
	defer func() {
		if err != nil && opt.Stop != nil {
			opt.Stop()
		}
		s.close() // before plain is closed
	}()
	if err := u.unpack(ctx, s); err != nil {
		return Result{}, err
	}
	id, err := s.drain()
	if err != nil {
		return Result{}, fmt.Errorf("read layer: %w", err)
	}
	if err := u.finish(); err != nil {
		return Result{}, err
	}
	size, inodes, err := Usage(ctx, dir)
	if err != nil {
		return Result{}, err
	}
	return Result{DiffID: id, Bytes: s.total, Size: size, Inodes: inodes, Implied: u.implied()}, nil
}

// unpack makes every entry of the archive.
func (u *unpacker) unpack(ctx context.Context, r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, tar.ErrInsecurePath): // decided in entry
		case errors.Is(err, tar.ErrHeader):
			return fmt.Errorf("read layer: %w: %w", err, errdefs.ErrInvalidArgument)
		case err != nil:
			return fmt.Errorf("read layer: %w", early(err))
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := u.entry(ctx, hdr, tr); err != nil {
			return fmt.Errorf("layer entry %q: %w", short(hdr.Name), early(err))
		}
	}
}

// short keeps a hostile name from filling the screen.
func short(name string) string {
	if len(name) > 300 {
		return name[:300] + "..."
	}
	return name
}

// invalid is an error about what the layer says.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// isEmpty checks that an open directory has no entry.
func isEmpty(dir *os.File) error {
	names, err := dir.Readdirnames(1)
	if err == io.EOF {
		return nil
	}
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("%s is not empty: %w", dir.Name(), errdefs.ErrFailedPrecondition)
	}
	return err
}
