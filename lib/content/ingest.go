// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// Ingest is a blob on its way into the store, or one that is there already: then nothing is missing,
// and Follow reads it. WriteAt may be called by several goroutines while one follows.
type Ingest struct {
	d     *state.Dir
	desc  ocispec.Descriptor
	lock  *lock.Lock
	data  *os.File
	list  *os.File // nil when the blob is in place
	trust bool     // in place and known to be right

	discarded bool

	mu       sync.Mutex
	changed  *sync.Cond
	have     ranges
	resumed  int64
	failed   error
	follower *follower
}

// Begin takes the lock of a blob and finds out what of it is there. It waits while another process
// brings the same blob. outer is the innermost lock the caller holds, or nil.
func Begin(ctx context.Context, d *state.Dir, outer *lock.Lock, desc ocispec.Descriptor) (*Ingest, error) {
	return newIngest(ctx, d, outer, desc, false)
}

// Repair is Begin for a blob that was found damaged: its file is hashed whatever is known of it. One that
// has not the digest counts as absent, and stays until Commit puts another in its place.
func Repair(ctx context.Context, d *state.Dir, outer *lock.Lock, desc ocispec.Descriptor) (*Ingest, error) {
	return newIngest(ctx, d, outer, desc, true)
}

func newIngest(ctx context.Context, d *state.Dir, outer *lock.Lock, desc ocispec.Descriptor, doubt bool) (*Ingest, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	if desc.Size < 0 {
		return nil, fmt.Errorf("content %q: size %d: %w", desc.Digest, desc.Size, errdefs.ErrInvalidArgument)
	}
	l, err := d.Lock(ctx, outer, lock.Blob, desc.Digest.String(), lock.Exclusive)
	if err != nil {
		return nil, err
	}
	i := &Ingest{d: d, desc: desc, lock: l}
	i.changed = sync.NewCond(&i.mu)
	found, err := i.adopt(ctx, doubt)
	if err == nil && !found {
		err = i.load()
	}
	if err != nil {
		return nil, errors.Join(i.wrong(err), i.Close())
	}
	i.resumed = i.have.total()
	return i, nil
}

// adopt opens the blob's file if it is in place. It is hashed when there is doubt, and when its size is not
// the descriptor's, as either of the two may be wrong.
func (i *Ingest) adopt(ctx context.Context, doubt bool) (found bool, err error) {
	f, err := os.Open(Path(i.d, i.desc.Digest))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() {
		if !found {
			f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	trust := false
	if doubt || st.Size() != i.desc.Size {
		if trust, err = i.isWhole(ctx, f); !trust || err != nil {
			return false, err
		}
	}
	if st.Size() != i.desc.Size {
		return false, fmt.Errorf("it has %d bytes, the descriptor says %d: %w", st.Size(), i.desc.Size, errdefs.ErrFailedPrecondition)
	}
	trust = trust || isVerified(f)
	if !trust {
		err = i.d.View(ctx, func(tx *state.Tx) error {
			trust, err = Recorded(tx, i.desc.Digest)
			return err
		})
		if err != nil {
			return false, err
		}
	}
	i.data, i.trust = f, trust
	i.have = i.have.add(Range{0, i.desc.Size})
	// A process that was killed between the rename and the clean-up left this.
	return true, os.RemoveAll(i.dir())
}

// isWhole tells whether a file has the blob's digest.
func (i *Ingest) isWhole(ctx context.Context, f *os.File) (bool, error) {
	sum := i.desc.Digest.Algorithm().Hash()
	for buf := make([]byte, 1<<20); ; {
		n, err := f.Read(buf)
		sum.Write(buf[:n])
		if err == io.EOF {
			return i.desc.Digest.Algorithm().Encode(sum.Sum(nil)) == i.desc.Digest.Encoded(), nil
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return false, err
		}
	}
}

func (i *Ingest) wrong(err error) error {
	return state.NoRoom(fmt.Errorf("content %q: %w", i.desc.Digest, err), i.dir())
}

func (i *Ingest) dir() string { return IngestPath(i.d, i.desc.Digest) }

// load opens the files of the ingest and reads what an earlier process left in them.
func (i *Ingest) load() error {
	if err := os.MkdirAll(i.dir(), 0o700); err != nil {
		return err
	}
	var err error
	if i.data, err = os.OpenFile(filepath.Join(i.dir(), "data"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if i.list, err = os.OpenFile(filepath.Join(i.dir(), "ranges"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return err
	}
	st, err := i.data.Stat()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(i.list)
	if err != nil {
		return err
	}
	have, whole, ok := parseRanges(string(text), st.Size(), i.desc.Size)
	if !ok {
		return i.clear()
	}
	i.have = have
	if whole < int64(len(text)) {
		return i.list.Truncate(whole)
	}
	return nil
}

// clear forgets all that has arrived.
func (i *Ingest) clear() error {
	i.have = nil
	// The list first: it must never tell of data that is gone.
	return errors.Join(i.list.Truncate(0), i.data.Truncate(0))
}

// Lock is the lock that the ingest holds, to be handed over as the outer one of locks within.
func (i *Ingest) Lock() *lock.Lock { return i.lock }

// Complete tells whether the blob was in place when Begin looked.
func (i *Ingest) Complete() bool { return i.list == nil }

// Resumed is how many bytes were there when Begin looked.
func (i *Ingest) Resumed() int64 { return i.resumed }

// Missing lists what has not arrived yet, in order.
func (i *Ingest) Missing() []Range {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.have.missing(i.desc.Size)
}

// WriteAt adds a piece of the blob and writes down that it is there. A piece that does not lie within
// the descriptor's size is errdefs.ErrOutOfRange.
func (i *Ingest) WriteAt(p []byte, off int64) (int, error) {
	r := Range{off, off + int64(len(p))}
	if off < 0 || r.End > i.desc.Size || i.list == nil {
		return 0, fmt.Errorf("content %q: %d bytes at %d of %d: %w", i.desc.Digest, len(p), off, i.desc.Size, errdefs.ErrOutOfRange)
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := i.data.WriteAt(p, off)
	if err != nil {
		return n, i.wrong(err)
	}
	crash.Point("content.after-data")
	if _, err := i.list.WriteString(r.line()); err != nil {
		return n, i.wrong(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.have = i.have.add(r)
	i.changed.Broadcast()
	return n, nil
}

// Fail says that no more will arrive. Whoever follows gets err when it reaches what is missing.
func (i *Ingest) Fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failed == nil {
		i.failed = err
	}
	i.changed.Broadcast()
}

// Follow gives the blob's bytes in order, as they arrive, and waits for those that have not: whoever
// writes must end with all of them written or with Fail. It may be called once. What is read through it
// is hashed, so that Commit need not read the file again. The reader has what layer.Decompress wants of one that igzip may read.
func (i *Ingest) Follow() io.Reader {
	if i.follower != nil {
		panic("content: an ingest is followed twice")
	}
	i.follower = &follower{i: i, hash: i.desc.Digest.Algorithm().Hash()}
	return i.follower
}

type follower struct {
	i    *Ingest
	pos  int64
	hash hash.Hash // nil of one that reads again
}

// Size is the blob's.
func (f *follower) Size() int64 { return f.i.desc.Size }

// Again gives a reader of the same bytes from the first one on, which are not hashed once more.
func (f *follower) Again() io.Reader { return &follower{i: f.i} }

// Read implements io.Reader.
func (f *follower) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	end, err := f.i.wait(f.pos)
	if err != nil {
		return 0, err
	}
	n, err := f.i.data.ReadAt(p[:min(int64(len(p)), end-f.pos)], f.pos)
	if f.hash != nil {
		f.hash.Write(p[:n])
	}
	f.pos += int64(n)
	if n > 0 {
		return n, nil
	}
	if err == io.EOF {
		err = fmt.Errorf("content %q: the file ends at byte %d: %w", f.i.desc.Digest, f.pos, errdefs.ErrDataLoss)
	}
	return 0, err
}

// wait blocks until there is something to read at pos, and tells up to where. At the blob's end it is
// io.EOF.
func (i *Ingest) wait(pos int64) (int64, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for {
		if pos == i.desc.Size {
			return 0, io.EOF
		}
		if end := i.have.upTo(pos); end > pos {
			return end, nil
		}
		if i.failed != nil {
			return 0, i.failed
		}
		i.changed.Wait()
	}
}

// Commit checks the whole blob against its digest and puts it in place, where it stays unrecorded until
// Put. It syncs nothing. What has not the digest is thrown away, so that the next Begin starts from
// nothing, and the error is errdefs.ErrFailedPrecondition.
func (i *Ingest) Commit() error {
	if err := i.commit(); err != nil {
		return i.wrong(err)
	}
	return nil
}

func (i *Ingest) commit() error {
	if i.trust {
		return nil
	}
	if m := i.Missing(); len(m) > 0 {
		return fmt.Errorf("incomplete: bytes %d to %d have not arrived: %w", m[0].Start, m[0].End, errdefs.ErrFailedPrecondition)
	}
	if i.follower == nil {
		i.Follow()
	}
	if _, err := io.Copy(io.Discard, i.follower); err != nil {
		return err
	}
	got := i.desc.Digest.Algorithm().Encode(i.follower.hash.Sum(nil))
	if got != i.desc.Digest.Encoded() {
		err := fmt.Errorf("what arrived has digest %s:%s: %w", i.desc.Digest.Algorithm(), got, errdefs.ErrFailedPrecondition)
		return errors.Join(err, i.Discard())
	}
	markVerified(i.data)
	if i.Complete() {
		i.trust = true
		return nil
	}
	// A file may have been longer once, for another descriptor of the same digest.
	if err := i.data.Truncate(i.desc.Size); err != nil {
		return err
	}
	if err := i.data.Chmod(0o444); err != nil {
		return err
	}
	return i.place(filepath.Join(i.dir(), "data"))
}

// place renames the file of a whole blob to its name.
func (i *Ingest) place(file string) error {
	path := Path(i.d, i.desc.Digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	crash.Point("content.before-rename")
	if err := os.Rename(file, path); err != nil {
		return err
	}
	crash.Point("content.after-rename")
	if i.list != nil {
		i.list.Close()
	}
	i.list, i.trust = nil, true
	return os.RemoveAll(i.dir())
}

// Discard throws away what has arrived, or the blob in place if it is not trusted. The ingest can then
// only be closed.
func (i *Ingest) Discard() error {
	i.discarded = i.discarded || !i.trust
	switch {
	case !i.Complete():
		return os.RemoveAll(i.dir())
	case i.trust:
		return nil
	}
	return i.dropFile()
}

// dropFile removes the file that is in place, if it still is the one that was read: a Writer of the same blob, which takes
// no lock of blobs, may have put another one there and recorded it.
func (i *Ingest) dropFile() (err error) {
	l, err := i.d.Lock(context.Background(), i.lock, lock.Collect, "collect", lock.Exclusive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	read, err := i.data.Stat()
	if err != nil {
		return err
	}
	path := Path(i.d, i.desc.Digest)
	now, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(read, now) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}

// Discarded tells whether what had arrived was thrown away, by Discard or by a Commit that failed: then
// the next Begin starts from nothing.
func (i *Ingest) Discarded() bool { return i.discarded }

// Close lets the blob's lock go. What has arrived of an uncommitted blob stays for the next Begin.
func (i *Ingest) Close() error {
	i.Fail(os.ErrClosed)
	var errs []error
	for _, f := range []*os.File{i.data, i.list} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if i.list != nil && len(i.have) == 0 {
		errs = append(errs, os.RemoveAll(i.dir()))
	}
	return errors.Join(append(errs, i.lock.Release())...)
}
