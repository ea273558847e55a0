// SPDX-License-Identifier: Apache-2.0

package content

import (
	// The algorithms that a digest may name.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/state"
)

// Path is where the file of a blob is, or would be. The digest must be valid.
func Path(d *state.Dir, dg digest.Digest) string {
	return d.Path("content", "blobs", dg.Algorithm().String(), dg.Encoded())
}

// IngestPath is the directory of a blob on its way. The digest must be valid.
func IngestPath(d *state.Dir, dg digest.Digest) string {
	return d.Path("content", "ingest", dg.Algorithm().String()+"-"+dg.Encoded())
}

func checkDigest(dg digest.Digest) error {
	if err := dg.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", dg, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Open opens the file of a blob for reading.
func Open(d *state.Dir, dg digest.Digest) (*os.File, error) {
	if err := checkDigest(dg); err != nil {
		return nil, err
	}
	f, err := os.Open(Path(d, dg))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("content %q: %w", dg, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("content %q: %w", dg, err)
	}
	return f, nil
}

// ReadAll reads a whole blob of at most max bytes and checks it against digest and size. One that is
// not what it should be is errdefs.ErrDataLoss, one that is too large errdefs.ErrFailedPrecondition.
func ReadAll(d *state.Dir, desc ocispec.Descriptor, max int64) ([]byte, error) {
	f, err := Open(d, desc.Digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fmt.Errorf("content %q: %w", desc.Digest, err)
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("content %q: larger than %d bytes: %w", desc.Digest, max, errdefs.ErrFailedPrecondition)
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, fmt.Errorf("content %q: the file has digest %s: %w", desc.Digest, got, errdefs.ErrDataLoss)
	}
	if desc.Size > 0 && desc.Size != int64(len(data)) {
		return nil, fmt.Errorf("content %q: it has %d bytes, its descriptor says %d: %w", desc.Digest, len(data), desc.Size, errdefs.ErrFailedPrecondition)
	}
	return data, nil
}

// verifiedAttr marks a blob file with the boot in which it was hashed.
const verifiedAttr = "user.ctrd.verified"

// markVerified stamps a file. A file system without attributes only costs a second hashing.
func markVerified(f *os.File) {
	if id, err := state.BootID(); err == nil {
		unix.Fsetxattr(int(f.Fd()), verifiedAttr, []byte(id), 0)
	}
}

func isVerified(f *os.File) bool {
	id, err := state.BootID()
	if err != nil || id == "" {
		return false
	}
	buf := make([]byte, 64)
	n, err := unix.Fgetxattr(int(f.Fd()), verifiedAttr, buf)
	return err == nil && string(buf[:n]) == id
}

// File is a blob file or, from Ingests, what of one has arrived.
type File struct {
	Digest   digest.Digest
	Path     string
	Size     int64 // bytes in the file
	Modified time.Time
}

// Files yields the blob files, recorded or not. Names that are no digest are yielded with an empty one.
func Files(d *state.Dir) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		algs, err := readDir(d.Path("content", "blobs"))
		if err != nil {
			yield(File{}, err)
			return
		}
		for _, alg := range algs {
			names, err := readDir(d.Path("content", "blobs", alg))
			if err != nil && !yield(File{}, err) {
				return
			}
			for _, n := range names {
				f, err := stat(d.Path("content", "blobs", alg, n), alg+":"+n)
				if errors.Is(err, os.ErrNotExist) {
					continue
				}
				if !yield(f, err) {
					return
				}
			}
		}
	}
}

// Ingests yields the blobs that pulls are bringing, or have begun to. Path is the directory of one. See RefIngests for
// those that writers bring.
func Ingests(d *state.Dir) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		names, err := readDir(d.Path("content", "ingest"))
		if err != nil {
			yield(File{}, err)
			return
		}
		for _, n := range names {
			if strings.HasPrefix(n, refPrefix) {
				continue
			}
			dir := d.Path("content", "ingest", n)
			f, err := stat(dir+"/data", strings.Replace(n, "-", ":", 1))
			if errors.Is(err, os.ErrNotExist) {
				f, err = stat(dir, strings.Replace(n, "-", ":", 1))
				f.Size = 0
			}
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			f.Path = dir
			if !yield(f, err) {
				return
			}
		}
	}
}

func stat(path, name string) (File, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return File{}, err
	}
	f := File{Path: path, Size: st.Size(), Modified: st.ModTime()}
	if dg, err := digest.Parse(name); err == nil {
		f.Digest = dg
	}
	return f, nil
}

func readDir(path string) ([]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
