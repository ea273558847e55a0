// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// FormatError says that an archive is none that can be read, and why. Its kind is errdefs.ErrInvalidArgument, or
// errdefs.ErrNotImplemented for what is right and not supported.
type FormatError struct{ Err error }

// Error is the text of the cause.
func (e *FormatError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *FormatError) Unwrap() error { return e.Err }

func malformed(format string, args ...any) error {
	return &FormatError{fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)}
}

// short keeps a hostile name from filling the screen.
func short(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}

const (
	// maxEntries bounds the entries of an archive, of whatever kind.
	maxEntries = 1 << 20
	// maxNames bounds the names of an archive together, in bytes. They are kept in memory.
	maxNames = 64 << 20
	// maxWindow is how far back a zstd frame may refer; the zstd command decodes no more by default either.
	maxWindow = 128 << 20
)

// entry is a file or a link of an archive.
type entry struct {
	name string // clean, without a leading slash
	link string // of a link: the name that it leads to, clean
	size int64
	data io.Reader
}

func noImages() error {
	return malformed("it has neither %s nor %s: it is no archive of images", indexFile, manifestFile)
}

// clean makes names of one file equal. One that leaves the archive is an error.
func clean(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", malformed("entry %q has .. in its name", short(name))
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// entries yields the files and links of a tar, which may be compressed, and reads it to its end.
func entries(r io.Reader) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		plain, err := decompress(r)
		if err != nil {
			yield(entry{}, err)
			return
		}
		defer plain.Close()
		t := tar.NewReader(plain)
		names := 0
		for n := 0; ; n++ {
			hdr, err := t.Next()
			if err == io.EOF {
				break
			}
			var e entry
			if hdr != nil {
				names += len(hdr.Name) + len(hdr.Linkname)
			}
			switch {
			case err != nil && !errors.Is(err, tar.ErrInsecurePath):
				err = broken(err)
			case n == maxEntries || names > maxNames:
				err = malformed("it has more than %d entries, or names of more than %d bytes", maxEntries, maxNames)
			default:
				e, err = entryOf(hdr, t)
			}
			if err == nil && e.name == "" {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
		// Whoever writes the stream must be able to write all of it, and checksums are at the end.
		if _, err := io.Copy(io.Discard, plain); err != nil {
			yield(entry{}, broken(err))
		}
	}
}

// entryOf gives a regular file or a link. Of what an archive of images has no use for, the name is empty.
func entryOf(hdr *tar.Header, r io.Reader) (e entry, err error) {
	switch hdr.Typeflag {
	case tar.TypeReg:
		if isSparse(hdr) {
			return e, malformed("entry %q is a sparse file", short(hdr.Name))
		}
		e.size, e.data = hdr.Size, r
	case tar.TypeGNUSparse:
		return e, malformed("entry %q is a sparse file", short(hdr.Name))
	case tar.TypeLink, tar.TypeSymlink:
		e.link = hdr.Linkname
	default:
		return e, nil
	}
	if e.name, err = clean(hdr.Name); err != nil || e.data != nil {
		return e, err
	}
	if hdr.Typeflag == tar.TypeSymlink && !path.IsAbs(e.link) {
		// The target is relative to the link's directory, and docker's lead to a neighbour: ../ID/layer.tar.
		e.link = path.Join(path.Dir(e.name), e.link)
	}
	if e.link, err = clean(e.link); err != nil {
		return e, leads(hdr.Name, hdr.Linkname)
	}
	return e, nil
}

// leads is the error about a link that leads to nothing of the archive.
func leads(name, to string) error {
	return malformed("the link %q leads to %q, which is not in the archive", short(name), short(to))
}

// isSparse tells whether a file has holes by a PAX header. Writers of images make none, and a few bytes of one would be
// a file of any size.
func isSparse(hdr *tar.Header) bool {
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// broken is an error of reading an archive, which is the archive's fault unless the system said it.
func broken(err error) error {
	var pathError *fs.PathError
	var format *FormatError
	switch {
	case errors.As(err, &pathError), errors.As(err, &format):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return malformed("the archive ends early")
	}
	return &FormatError{fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)}
}

// decompress gives the tar of an archive that may be compressed with gzip, zstd or bzip2.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buf := bufio.NewReaderSize(r, 256<<10)
	head, err := buf.Peek(6)
	if err != nil && err != io.EOF {
		return nil, broken(err)
	}
	switch is := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }; {
	case len(head) == 0:
		return nil, malformed("the archive is empty")
	case is("\x1f\x8b\x08"):
		z, err := gzip.NewReader(buf)
		if err != nil {
			return nil, broken(err)
		}
		return z, nil
	case is("\x28\xb5\x2f\xfd"):
		z, err := zstd.NewReader(buf, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, broken(err)
		}
		return z.IOReadCloser(), nil
	case is("BZh") && !isTar(buf):
		return io.NopCloser(bzip2.NewReader(buf)), nil
	case is("\xfd7zXZ\x00"):
		return nil, &xzError{FormatError{fmt.Errorf("it is compressed with xz: %w", errdefs.ErrNotImplemented)}}
	}
	return io.NopCloser(buf), nil
}

// isTar tells whether a tar begins with the name of its first file.
func isTar(buf *bufio.Reader) bool {
	head, _ := buf.Peek(262)
	return len(head) == 262 && string(head[257:]) == "ustar"
}

type xzError struct{ FormatError }

// Unwrap gives what it is as well.
func (e *xzError) Unwrap() error { return &e.FormatError }

// Hint is the way around.
func (e *xzError) Hint() string { return "xz -dc FILE | ctr-image import -" }

// files yields the regular files of a directory. Symbolic links are followed as long as they stay in it.
func files(dir string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			yield(entry{}, err)
			return
		}
		defer root.Close()
		// Of an archive only its end tells; a directory that is none must not be stored file by file before that is known.
		if !slices.ContainsFunc([]string{indexFile, manifestFile, layoutFile, repositoriesFile}, has(root)) {
			yield(entry{}, noImages())
			return
		}
		n, names := 0, 0
		err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			n++
			if names += len(name); n > maxEntries || names > maxNames {
				return malformed("it has more than %d files, or names of more than %d bytes", maxEntries, maxNames)
			}
			err = yieldFile(root, name, yield)
			if errno := unix.Errno(0); e.Type() == fs.ModeSymlink && err != nil && err != fs.SkipAll && (!errors.As(err, &errno) || errno == unix.ENOENT) {
				to, _ := root.Readlink(name)
				return leads(name, to)
			}
			return err
		})
		if err != nil && err != fs.SkipAll {
			yield(entry{}, err)
		}
	}
}

func has(root *os.Root) func(name string) bool {
	return func(name string) bool {
		_, err := root.Stat(name)
		return !errors.Is(err, fs.ErrNotExist)
	}
}

func yieldFile(root *os.Root, name string, yield func(entry, error) bool) (err error) {
	// A FIFO without a writer must not stop the walk.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	if !yield(entry{name: name, size: st.Size(), data: io.LimitReader(f, st.Size())}, nil) {
		return fs.SkipAll
	}
	return nil
}
