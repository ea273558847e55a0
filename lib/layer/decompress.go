// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is how far back a zstd frame may refer; the zstd command decodes no more by default either.
const maxWindow = 128 << 20

const readAhead = 256 << 10

var magics = []struct {
	name, magic string
}{
	{"gzip", "\x1f\x8b\x08"},
	{"zstd", "\x28\xb5\x2f\xfd"},
	{"bzip2", "BZh"},
	{"xz", "\xfd7zXZ\x00"},
}

// IsLayer tells whether a media type is one of an image layer that [Decompress] can read: OCI's
// (application/vnd.oci.image.layer.v1.tar, +gzip, +zstd, nondistributable) or Docker's
// (application/vnd.docker.image.rootfs.diff.tar, .gzip, .zstd, foreign).
func IsLayer(mediaType string) bool {
	for _, prefix := range []string{
		"application/vnd.oci.image.layer.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar",
	} {
		if suffix, ok := strings.CutPrefix(mediaType, prefix); ok {
			switch suffix {
			case "", "+gzip", ".gzip", "+zstd", ".zstd":
				return true
			}
		}
	}
	return false
}

// Decompress gives the uncompressed tar of a layer. The first bytes decide between gzip, zstd and
// none, because registries serve layers whose media type does not say what they are; mediaType may be
// empty. A blob of no bytes is a layer without entries, as old versions of docker pushed. NUL bytes behind
// gzip's last member are passed over, as gzip(1) does. A gzip stream of 1 MiB or more is decompressed by igzip if that is
// there, and r has the methods Size, its length, and Again, which gives the same bytes once more. A media type that is no layer's, an encrypted layer and other compressions are
// errdefs.ErrNotImplemented. Close does not close r.
func Decompress(r io.Reader, mediaType string) (io.ReadCloser, error) {
	if mediaType != "" && !IsLayer(mediaType) {
		return nil, fmt.Errorf("layer of media type %q: %w", mediaType, errdefs.ErrNotImplemented)
	}
	buf := bufio.NewReaderSize(r, readAhead)
	head, err := buf.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	kind := ""
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			kind = m.name
		}
	}
	switch kind {
	case "gzip":
		if a, ok := r.(repeatable); ok && a.Size() >= leastForeign {
			if f := startForeign(igzip(), buf, a.Again); f != nil {
				return &decoder{f, f.Close}, nil
			}
		}
		return gunzip(buf)
	case "zstd":
		z, err := zstd.NewReader(buf, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, fmt.Errorf("read layer: %w", early(err))
		}
		return &decoder{z, func() error { z.Close(); return nil }}, nil
	case "":
		return &decoder{buf, func() error { return nil }}, nil
	}
	// A tar may begin with a file named BZh..., then its header says so.
	if hdr, _ := buf.Peek(262); len(hdr) == 262 && bytes.Equal(hdr[257:], []byte("ustar")) {
		return &decoder{buf, func() error { return nil }}, nil
	}
	return nil, fmt.Errorf("layer compressed with %s: %w", kind, errdefs.ErrNotImplemented)
}

func gunzip(buf *bufio.Reader) (io.ReadCloser, error) {
	z, err := gzip.NewReader(buf)
	if err != nil {
		return nil, fmt.Errorf("read layer: %w", early(err))
	}
	z.Multistream(false)
	return &decoder{&members{z, buf}, z.Close}, nil
}

// members reads the members of a gzip stream one after the other (RFC 1952 section 2.2), up to padding.
type members struct {
	z   *gzip.Reader
	buf *bufio.Reader
}

func (m *members) Read(p []byte) (int, error) {
	n, err := m.z.Read(p)
	if n > 0 || err != io.EOF {
		if err == io.EOF {
			err = nil
		}
		return n, err
	}
	c, err := m.buf.ReadByte()
	if err == nil && c != 0 {
		m.buf.UnreadByte()
		if err := m.z.Reset(m.buf); err != nil {
			return 0, err
		}
		m.z.Multistream(false)
		return 0, nil
	}
	for ; err == nil; c, err = m.buf.ReadByte() {
		if c != 0 {
			return 0, fmt.Errorf("padding of gzip: %w", gzip.ErrHeader)
		}
	}
	return 0, err
}

// decoder says in one way that a stream ended too early.
type decoder struct {
	io.Reader
	close func() error
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	return n, early(err)
}

func (d *decoder) Close() error { return d.close() }

func early(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("layer ends early: %w", io.ErrUnexpectedEOF)
	}
	return err
}
