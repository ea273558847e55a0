// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bufio"
	"cmp"
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

// Compression is how a layer is compressed. Each has its own function, so that a command has those alone that it uses.
type Compression struct {
	name, media string
	pack        func(io.Writer) (io.WriteCloser, error)
}

// The compressions. The same layer always gives the same bytes, as long as this program is the same.
var (
	None = &Compression{"none", ocispec.MediaTypeImageLayer, packNone}
	Gzip = &Compression{"gzip", ocispec.MediaTypeImageLayerGzip, packGzip}
	Zstd = &Compression{"zstd", ocispec.MediaTypeImageLayerZstd, packZstd}
)

// Compressions are all of them.
func Compressions() []*Compression { return []*Compression{None, Gzip, Zstd} }

// Named gives the compression of a name; another name is errdefs.ErrInvalidArgument.
func Named(name string) (*Compression, error) {
	for _, c := range Compressions() {
		if c.name == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("compression %q: none of none, gzip, zstd: %w", name, errdefs.ErrInvalidArgument)
}

// String gives the name.
func (c *Compression) String() string { return c.name }

func packNone(w io.Writer) (io.WriteCloser, error) { return plainCloser{w}, nil }
func packGzip(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }
func packZstd(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }

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

func newOutput(w io.Writer, how *Compression) (*output, error) {
	how = cmp.Or(how, None)
	o := &output{media: how.media, plain: sha256.New(), packed: sha256.New(), w: w}
	z, err := how.pack(writerFunc(o.put))
	if err != nil {
		return nil, err
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
