// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/state"
)

// The files of an archive that say what is in it.
const (
	indexFile    = ocispec.ImageIndexFile
	layoutFile   = ocispec.ImageLayoutFile
	manifestFile = "manifest.json"
	blobsDir     = ocispec.ImageBlobsDir
	// repositoriesFile is beside manifest.json, and says no more than that.
	repositoriesFile = "repositories"
)

const (
	// maxFiles bounds the files of an archive that are not named by a digest. Each becomes a blob.
	maxFiles = 100_000
	// maxDocuments bounds manifests and configurations of an archive together, in bytes. They are kept in memory.
	maxDocuments = 256 << 20
	// maxLinks bounds how far links are followed.
	maxLinks = 8
	// piece is how much is read and written at once.
	piece = 256 << 10
)

// intake is what an archive has brought. Every file is in the content store, but for what says what is in it.
type intake struct {
	d         *state.Dir
	ns        string
	work      *pull.Local
	report    *progress.Reporter
	documents map[string][]byte
	files     map[string]digest.Digest // by name
	links     map[string]string
	size      map[digest.Digest]int64 // of all that was brought
	buf       []byte
}

func newIntake(d *state.Dir, ns string, work *pull.Local, report *progress.Reporter) *intake {
	return &intake{
		d: d, ns: ns, work: work, report: report, documents: map[string][]byte{}, files: map[string]digest.Digest{},
		links: map[string]string{}, size: map[digest.Digest]int64{}, buf: make([]byte, piece),
	}
}

// all takes every entry.
func (in *intake) all(ctx context.Context, entries iter.Seq2[entry, error]) error {
	for e, err := range entries {
		if err == nil {
			err = in.take(ctx, e)
		}
		if err != nil {
			return err
		}
	}
	crash.Point("archive.stored")
	return nil
}

// take takes one file or link. Two of one name must say the same, or what one program checks and another uses
// would not be the same.
func (in *intake) take(ctx context.Context, e entry) error {
	if e.data == nil {
		if old, again := in.links[e.name]; again && old != e.link {
			return malformed("%q is in the archive twice, and differs", short(e.name))
		}
		in.links[e.name] = e.link
		return nil
	}
	switch e.name {
	case indexFile, layoutFile, manifestFile:
		return in.document(e)
	}
	want, err := digestOf(e.name)
	if err != nil {
		return err
	}
	got, err := in.blob(ctx, e, want)
	if err != nil {
		return fmt.Errorf("%s: %w", short(e.name), err)
	}
	if want != "" {
		return nil
	}
	if old, again := in.files[e.name]; again && old != got {
		return malformed("%q is in the archive twice, and differs", short(e.name))
	}
	if in.files[e.name] = got; len(in.files) > maxFiles {
		return malformed("it has more than %d files, and is no archive of images", maxFiles)
	}
	return nil
}

// digestOf gives the digest that a blob of an OCI layout is named by, and none for other files.
func digestOf(name string) (digest.Digest, error) {
	rest, ok := strings.CutPrefix(name, blobsDir+"/")
	alg, hex, two := strings.Cut(rest, "/")
	if !ok || !two {
		return "", nil
	}
	dg := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
	if err := dg.Validate(); err != nil {
		return "", malformed("blob %q: %v", short(name), err)
	}
	return dg, nil
}

func (in *intake) document(e entry) error {
	if e.size > image.MaxManifest {
		return malformed("%s has %d bytes, at most %d are supported", e.name, e.size, image.MaxManifest)
	}
	data, err := io.ReadAll(e.data)
	if err != nil {
		return broken(err)
	}
	if old, again := in.documents[e.name]; again && !bytes.Equal(old, data) {
		return malformed("%q is in the archive twice, and differs", e.name)
	}
	in.documents[e.name] = data
	return nil
}

// blob stores a file under the digest of its bytes, which must be want if that is not empty.
func (in *intake) blob(ctx context.Context, e entry, want digest.Digest) (digest.Digest, error) {
	alg := digest.SHA256
	if want != "" {
		alg = want.Algorithm()
		desc := ocispec.Descriptor{Digest: want, Size: e.size}
		there, err := in.have(ctx, desc)
		if there && err == nil {
			err = in.prove(ctx, e, want)
		}
		if there && err == nil {
			in.report.Send(desc, progress.Exists, e.size)
		}
		if there || err != nil {
			return want, err
		}
		// What has no digest yet cannot be told of.
		e.data = &metered{e.data, in.report.Meter(desc, progress.Copying, 0)}
	}
	s, err := content.Stage(in.d, alg)
	if err != nil {
		return "", err
	}
	defer s.Close()
	if err := in.copy(ctx, s, e); err != nil {
		return "", err
	}
	got := s.Descriptor()
	if want != "" && got.Digest != want {
		return "", malformed("its bytes have digest %s", got.Digest)
	}
	if err := in.work.Hold(ctx, got.Digest.String()); err != nil {
		return "", err
	}
	in.size[got.Digest] = got.Size
	if err := s.Place(ctx, nil); err != nil {
		return "", err
	}
	in.report.Send(got, progress.Done, got.Size)
	return got.Digest, nil
}

// metered counts what is read.
type metered struct {
	io.Reader
	meter *progress.Meter
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	m.meter.Add(n)
	return n, err
}

// have tells whether a blob is in the store already, whole.
func (in *intake) have(ctx context.Context, desc ocispec.Descriptor) (there bool, err error) {
	if err := in.work.Hold(ctx, desc.Digest.String()); err != nil {
		return false, err
	}
	i, err := content.Begin(ctx, in.d, nil, desc)
	if errdefs.IsFailedPrecondition(err) {
		return false, malformed("it has %d bytes, and not those of its digest", desc.Size)
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	if !i.Complete() {
		return false, nil
	}
	if err := i.Commit(); err != nil {
		if errdefs.IsFailedPrecondition(err) {
			err = nil // it was damaged, and has been removed
		}
		return false, err
	}
	in.size[desc.Digest] = desc.Size
	return true, nil
}

// prove reads the bytes of a blob that is in the store already, unless the namespace has it: who only knows its digest has no
// right to it, see may.
func (in *intake) prove(ctx context.Context, e entry, want digest.Digest) error {
	var own bool
	err := in.d.View(ctx, func(tx *state.Tx) error {
		_, err := content.Get(tx, in.ns, want)
		own = err == nil
		if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
			return nil
		}
		return err
	})
	if err != nil || own {
		return err
	}
	sum := want.Algorithm().Hash()
	if err := in.copy(ctx, sum, e); err != nil {
		return err
	}
	if got := digest.NewDigest(want.Algorithm(), sum); got != want {
		return malformed("its bytes have digest %s", got)
	}
	return nil
}

// copy writes the bytes of a file.
func (in *intake) copy(ctx context.Context, w io.Writer, e entry) error {
	var total int64
	for {
		n, err := e.data.Read(in.buf)
		if n > 0 {
			if _, err := w.Write(in.buf[:n]); err != nil {
				return err
			}
			total += int64(n)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return broken(err)
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
	if total != e.size {
		return malformed("it has %d bytes instead of %d", total, e.size)
	}
	return nil
}

// file gives the blob that a name of a docker-archive leads to, through links.
func (in *intake) file(name string) (ocispec.Descriptor, error) {
	at, err := clean(name)
	for i := 0; err == nil && i < maxLinks; i++ {
		dg, ok := in.files[at]
		if !ok {
			dg, err = digestOf(at)
			_, ok = in.size[dg]
		}
		if err == nil && ok {
			return ocispec.Descriptor{Digest: dg, Size: in.size[dg]}, nil
		}
		if at, ok = in.links[at]; !ok {
			break
		}
	}
	return ocispec.Descriptor{}, malformed("%s names %q, which is not in the archive", manifestFile, short(name))
}

// may tells whether a blob may be used: one that the archive has, or that the namespace has already. Knowing a
// digest gives no right to what another namespace has.
func (in *intake) may(ctx context.Context, desc ocispec.Descriptor) (ok bool, err error) {
	size, ok := in.size[desc.Digest]
	if !ok {
		err = in.d.View(ctx, func(tx *state.Tx) error {
			b, err := content.Get(tx, in.ns, desc.Digest)
			if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
				return nil
			}
			size, ok = b.Size, err == nil
			return err
		})
		if err == nil && ok {
			ok, err = in.have(ctx, desc)
		}
	}
	if ok && err == nil && size != desc.Size {
		return false, malformed("blob %s has %d bytes, its descriptor says %d", desc.Digest, size, desc.Size)
	}
	return ok, err
}

// read gives a document of an image that may be used.
func (in *intake) read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	ok, err := in.may(ctx, desc)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("blob %s is not there: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if desc.Size > image.MaxManifest {
		return nil, malformed("blob %s has %d bytes, at most %d are supported for what it is", desc.Digest, desc.Size, image.MaxManifest)
	}
	return content.ReadAll(in.d, desc, image.MaxManifest)
}
