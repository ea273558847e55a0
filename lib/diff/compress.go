// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression is how a layer is compressed.
type Compression string

// The compressions. The same layer always gives the same bytes, as long as this program is the same.
const (
	None Compression = "none"
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// output compresses a tar and hashes it before and after.
type output struct {
	io.Writer // takes the tar
	buf       *bufio.Writer
	packer    io.Closer
	media     string
	plain     hash.Hash
	packed    hash.Hash
	size      int64 // of what has been written to w
	w         io.Writer
}

func newOutput(w io.Writer, how Compression) (*output, error) {
	o := &output{plain: sha256.New(), packed: sha256.New(), w: w}
	var z io.WriteCloser
	var err error
	switch how {
	case None, "":
		z, o.media = plainCloser{writerFunc(o.put)}, ocispec.MediaTypeImageLayer
	case Gzip:
		z, o.media = gzip.NewWriter(writerFunc(o.put)), ocispec.MediaTypeImageLayerGzip
	case Zstd:
		o.media = ocispec.MediaTypeImageLayerZstd
		if z, err = zstd.NewWriter(writerFunc(o.put)); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("compression %q: none of none, gzip, zstd: %w", how, errdefs.ErrInvalidArgument)
	}
	o.packer = z
	o.buf = bufio.NewWriterSize(io.MultiWriter(o.plain, z), 256<<10)
	o.Writer = o.buf
	return o, nil
}

// put writes what is compressed.
func (o *output) put(p []byte) (int, error) {
	n, err := o.w.Write(p)
	o.packed.Write(p[:n])
	o.size += int64(n)
	return n, err
}

// finish ends the compressed stream.
func (o *output) finish() (Result, error) {
	if err := o.buf.Flush(); err != nil {
		return Result{}, err
	}
	if err := o.packer.Close(); err != nil {
		return Result{}, err
	}
	return Result{
		Descriptor: ocispec.Descriptor{MediaType: o.media, Digest: digest.NewDigest(digest.SHA256, o.packed), Size: o.size},
		DiffID:     digest.NewDigest(digest.SHA256, o.plain),
	}, nil
}

// abandon lets go of what a compressor holds after an error.
func (o *output) abandon() {
	if o.packer != nil {
		o.w = io.Discard
		o.packer.Close()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type plainCloser struct{ io.Writer }

func (plainCloser) Close() error { return nil }
