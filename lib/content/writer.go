// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

// WriterOptions say what is going to be written.
type WriterOptions struct {
	Ref    string        // names the ingest in its namespace; any text of 1 to 4096 bytes
	Size   int64         // expected bytes; 0: not known
	Digest digest.Digest // expected; empty: not known
	Lease  string        // id of the lease record that holds the ingest, and later the blob; empty: none
}

// Writer brings one blob into a namespace: bytes in order, then Commit. There is one writer of a ref in a namespace.
// What it has written stays after Close or a kill, and the next writer of the ref goes on with it. A writer is used by
// one goroutine.
type Writer struct {
	d    *state.Dir
	in   *ingestDir
	file *os.File // data; nil while the bytes are those of a blob that another namespace has
	note note
	ns   string

	lease  string
	offset int64
	synced int64
	sum    hash.Hash
	alg    digest.Algorithm
	summed int64 // bytes of which sum is
	// changed is when data was written last by this writer; the file system's clock is coarser.
	changed time.Time
	ended   bool
}

// OpenWriter opens the writer of a ref and says, by its Status, from where it goes on. Where the namespace has the
// expected blob already, that is added to the lease and the error is errdefs.ErrAlreadyExists. A ref that another
// writer has open is errdefs.ErrUnavailable: it may be tried again.
//
// A blob that only another namespace has is taken over by Commit without a byte written, if its digest is expected and
// the expected size, if any, is its own: the writer then begins at its end.
func OpenWriter(ctx context.Context, d *state.Dir, ns string, o WriterOptions) (w *Writer, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	// A collection sees the ingest, with the blob that it expects, or is over.
	l, err := d.Lock(ctx, nil, lock.Collect, "collect", lock.Shared)
	if err != nil {
		return nil, fmt.Errorf("ref %q: %w", o.Ref, err)
	}
	defer func() {
		err = errors.Join(err, l.Release())
		if err != nil && w != nil {
			err = errors.Join(err, w.Close())
			w = nil
		}
	}()
	in, claimed := claim(d, ns, o.Ref)
	if claimed != nil && !(errdefs.IsUnavailable(claimed) && o.Digest != "") {
		return nil, claimed
	}
	look, err := o.look(ctx, d, l, ns, claimed == nil)
	switch {
	case err == nil && look.exists:
		err = fmt.Errorf("content %q in namespace %q: %w", o.Digest, ns, errdefs.ErrAlreadyExists)
	case err == nil:
		err = claimed
	}
	if err != nil && in != nil {
		return nil, errors.Join(err, in.leave())
	}
	if err != nil {
		return nil, err
	}
	w = &Writer{d: d, in: in, ns: ns, lease: o.Lease, alg: digest.Canonical}
	if o.Digest != "" {
		w.alg = o.Digest.Algorithm()
	}
	w.sum = w.alg.Hash()
	if err := w.begin(o, look); err != nil {
		return w, state.NoRoom(fmt.Errorf("ref %q: %w", o.Ref, err), w.in.path)
	}
	crash.Point("content.writer-opened")
	return w, nil
}

// maxRef bounds a ref, in bytes.
const maxRef = 4096

func (o WriterOptions) check() error {
	switch {
	case o.Ref == "" || len(o.Ref) > maxRef:
		return fmt.Errorf("ref %.100q: it must have 1 to %d bytes: %w", o.Ref, maxRef, errdefs.ErrInvalidArgument)
	case o.Size < 0:
		return fmt.Errorf("ref %q: size %d: %w", o.Ref, o.Size, errdefs.ErrInvalidArgument)
	case o.Digest != "":
		return checkDigest(o.Digest)
	}
	return nil
}

// found is what the records say of the blob that is expected.
type found struct {
	exists bool  // in the namespace itself
	shared bool  // in another one, or nowhere any more, but whole
	size   int64 // of the shared one
}

// look asks the records, and adds the blob, or else the ingest if it is ours, to the lease.
func (o WriterOptions) look(ctx context.Context, d *state.Dir, outer *lock.Lock, ns string, ours bool) (f found, err error) {
	do := func(tx *state.Tx) error {
		f = found{}
		if o.Digest != "" {
			if f, err = find(tx, ns, o.Digest, o.Size); err != nil {
				return err
			}
		}
		if f.exists {
			return lease.Add(tx, ns, o.Lease, lease.Resource{Type: lease.ContentType, ID: o.Digest.String()})
		}
		if !ours {
			return nil
		}
		return lease.Add(tx, ns, o.Lease, lease.Resource{Type: lease.IngestType, ID: o.Ref})
	}
	switch {
	case o.Lease != "":
		return f, d.Update(ctx, outer, do)
	case o.Digest != "":
		return f, d.View(ctx, do)
	}
	return f, nil
}

// find looks for a blob in the namespace and then in the others.
func find(tx *state.Tx, ns string, dg digest.Digest, size int64) (f found, err error) {
	_, err = Get(tx, ns, dg)
	if !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) { // Commit replaces a damaged record
		return found{exists: err == nil}, err
	}
	file, err := Open(tx.Dir(), dg)
	if errdefs.IsNotFound(err) {
		return found{}, nil
	}
	if err != nil {
		return found{}, err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil || size != 0 && size != st.Size() {
		return found{}, err
	}
	known := isVerified(file)
	if !known {
		known, err = Recorded(tx, dg)
	}
	return found{shared: known, size: st.Size()}, err
}

// begin goes on with what an earlier writer of the ref has left, or starts anew.
func (w *Writer) begin(o WriterOptions, f found) (err error) {
	now := time.Now().UTC()
	old, err := w.in.readNote()
	if err != nil {
		return err
	}
	if old.Ref != o.Ref || old.Namespace != w.ns || o.Size > 0 && old.Total > 0 && o.Size != old.Total {
		old = note{Started: now, Leased: o.Lease != ""}
	}
	w.note = note{Namespace: w.ns, Ref: o.Ref, Total: max(o.Size, old.Total), Expected: o.Digest, Started: old.Started, Leased: old.Leased && o.Lease != ""}
	if w.note.Expected == "" {
		w.note.Expected = old.Expected
	}
	if f.shared {
		w.note.Shared, w.note.Total, w.offset, w.synced = true, f.size, f.size, f.size
		if err := w.in.root.Remove("data"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return w.in.writeNote(w.note)
	}
	if w.file, err = w.in.root.OpenFile("data", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	st, err := w.file.Stat()
	if err != nil {
		return err
	}
	boot, err := state.BootID()
	if err != nil {
		return err
	}
	if w.offset = st.Size(); old.Boot != boot {
		w.offset = min(w.offset, old.Synced) // a power cut can have eaten what came later
	}
	w.synced = min(old.Synced, w.offset)
	if w.offset < st.Size() { // else the time of the last write would change
		if err := w.file.Truncate(w.offset); err != nil {
			return err
		}
	}
	w.note.Boot, w.note.Synced = boot, w.synced
	return w.in.writeNote(w.note)
}

// Status tells how far the writer is.
func (w *Writer) Status() Status {
	s := w.note.status(w.offset)
	if !w.changed.IsZero() {
		s.Updated = w.changed
	} else if w.file != nil {
		if st, err := w.file.Stat(); err == nil {
			s.Updated = st.ModTime().UTC()
		}
	}
	return s
}

// Write appends bytes.
func (w *Writer) Write(p []byte) (int, error) {
	if w.ended {
		return 0, w.wrong(os.ErrClosed)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := w.unshare(); err != nil {
		return 0, err
	}
	n, err := w.file.WriteAt(p, w.offset)
	if w.summed == w.offset {
		w.sum.Write(p[:n])
		w.summed += int64(n)
	}
	w.offset += int64(n)
	w.changed = time.Now().UTC()
	if err != nil {
		return n, w.wrong(err)
	}
	return n, nil
}

// WriteAt is Write that says where the bytes belong, by the rule of containerd's API: at the offset where the writer
// is, or at 0, which throws away what was written. Any other offset is errdefs.ErrOutOfRange.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if off != 0 && off != w.offset {
		return 0, w.wrong(fmt.Errorf("write at %d: the writer is at %d: %w", off, w.offset, errdefs.ErrOutOfRange))
	}
	if off == 0 && w.offset > 0 {
		if err := w.Truncate(0); err != nil {
			return 0, err
		}
	}
	return w.Write(p)
}

// Truncate throws away what was written behind the first size bytes. A size beyond the offset is
// errdefs.ErrOutOfRange.
func (w *Writer) Truncate(size int64) error {
	if w.ended {
		return w.wrong(os.ErrClosed)
	}
	if size < 0 || size > w.offset {
		return w.wrong(fmt.Errorf("truncate to %d: the writer is at %d: %w", size, w.offset, errdefs.ErrOutOfRange))
	}
	if err := w.unshare(); err != nil {
		return err
	}
	// What comes in place of bytes that survive a power cut does not survive one.
	if size < w.note.Synced {
		w.note.Synced = size
		if err := w.in.writeNote(w.note); err != nil {
			return w.wrong(err)
		}
	}
	if err := w.file.Truncate(size); err != nil {
		return w.wrong(err)
	}
	w.offset, w.synced, w.changed = size, min(w.synced, size), time.Now().UTC()
	if w.summed > size {
		w.sum.Reset()
		w.summed = 0
	}
	return nil
}

// unshare copies the bytes of another namespace's blob, so that they can be changed.
func (w *Writer) unshare() error {
	if !w.note.Shared {
		return nil
	}
	from, err := Open(w.d, w.note.Expected)
	if err != nil {
		return w.wrong(err)
	}
	defer from.Close()
	file, err := w.in.root.OpenFile("data", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return w.wrong(err)
	}
	if _, err := io.Copy(file, from); err != nil {
		return w.wrong(errors.Join(err, file.Close()))
	}
	boot, err := state.BootID()
	if err != nil {
		return w.wrong(errors.Join(err, file.Close()))
	}
	w.file, w.synced = file, 0
	w.note.Shared, w.note.Boot = false, boot
	if err := w.in.writeNote(w.note); err != nil {
		return w.wrong(err)
	}
	return nil
}

// Digest is the digest of what has been written so far, with the algorithm of the expected digest or sha256.
func (w *Writer) Digest() (digest.Digest, error) {
	if w.note.Shared {
		return w.note.Expected, nil
	}
	if w.ended {
		return "", w.wrong(os.ErrClosed)
	}
	return w.digest(w.alg)
}

func (w *Writer) digest(alg digest.Algorithm) (digest.Digest, error) {
	if alg != w.alg {
		w.alg, w.sum, w.summed = alg, alg.Hash(), 0
	}
	if w.summed < w.offset {
		n, err := io.Copy(w.sum, io.NewSectionReader(w.file, w.summed, w.offset-w.summed))
		w.summed += n
		if err == nil && w.summed < w.offset {
			err = fmt.Errorf("its file ends at byte %d: %w", w.summed, errdefs.ErrDataLoss)
		}
		if err != nil {
			return "", w.wrong(err)
		}
	}
	return digest.NewDigest(alg, w.sum), nil
}

// Commit checks what was written, puts it in place and records it with the labels. Size 0 and an empty digest are
// not compared; what is not as expected is errdefs.ErrFailedPrecondition and stays for the next writer of the ref. A blob
// that the namespace has by now is errdefs.ErrAlreadyExists; the ingest is gone then, too, and the lease holds the
// blob. The writer can only be closed afterwards.
func (w *Writer) Commit(ctx context.Context, size int64, expected digest.Digest, labels map[string]string) (Blob, error) {
	if w.ended {
		return Blob{}, w.wrong(os.ErrClosed)
	}
	b, err := w.commit(ctx, size, expected, labels)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return b, errors.Join(w.wrong(err), w.Close())
	}
	return b, errors.Join(err, w.finish())
}

func (w *Writer) commit(ctx context.Context, size int64, expected digest.Digest, labels map[string]string) (b Blob, err error) {
	if err := label.Check(labels); err != nil {
		return b, err
	}
	labels = maps.Clone(labels)
	maps.DeleteFunc(labels, func(_, v string) bool { return v == "" })
	if size != 0 && size != w.offset {
		return b, fmt.Errorf("it has %d bytes, %d are expected: %w", w.offset, size, errdefs.ErrFailedPrecondition)
	}
	got, err := w.check(expected)
	if err != nil {
		return b, err
	}
	// From the rename to the record no collection takes the file for garbage.
	l, err := w.d.Lock(ctx, nil, lock.Collect, "collect", lock.Shared)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	if w.note.Shared {
		_, err = os.Stat(Path(w.d, got)) // it may have been removed by hand
	} else {
		err = w.place(got)
	}
	if err != nil {
		return b, err
	}
	crash.Point("content.writer-placed")
	exists := false
	err = w.d.Update(ctx, l, func(tx *state.Tx) error {
		_, err := Get(tx, w.ns, got)
		exists = err == nil
		if !exists {
			if err := Put(tx, w.ns, Blob{Digest: got, Size: w.offset, Labels: labels}); err != nil {
				return err
			}
		}
		if err := lease.Drop(tx, w.ns, w.lease, lease.Resource{Type: lease.IngestType, ID: w.note.Ref}); err != nil {
			return err
		}
		if err := lease.Add(tx, w.ns, w.lease, lease.Resource{Type: lease.ContentType, ID: got.String()}); err != nil {
			return err
		}
		b, err = Get(tx, w.ns, got)
		return err
	})
	if err == nil && exists {
		err = fmt.Errorf("content %q in namespace %q: %w", got, w.ns, errdefs.ErrAlreadyExists)
	}
	crash.Point("content.writer-recorded")
	return b, err
}

// check gives the digest of what was written, and makes that durable.
func (w *Writer) check(expected digest.Digest) (digest.Digest, error) {
	got, alg := w.note.Expected, w.alg
	if expected != "" {
		if err := checkDigest(expected); err != nil {
			return "", err
		}
		alg = expected.Algorithm()
	}
	if !w.note.Shared {
		var err error
		if got, err = w.digest(alg); err != nil {
			return "", err
		}
	}
	if expected != "" && got != expected {
		return "", fmt.Errorf("it has digest %s, %s is expected: %w", got, expected, errdefs.ErrFailedPrecondition)
	}
	if w.note.Shared {
		return got, nil
	}
	if err := w.file.Sync(); err != nil {
		return "", err
	}
	w.synced = w.offset
	markVerified(w.file)
	return got, w.file.Chmod(0o444)
}

// place gives the data its name among the blobs, durably.
func (w *Writer) place(dg digest.Digest) error {
	path := Path(w.d, dg)
	if err := makeDurable(filepath.Dir(path)); err != nil {
		return err
	}
	dir, err := w.in.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Renameat(int(dir.Fd()), "data", unix.AT_FDCWD, path)
	if err == unix.ENOENT {
		return fmt.Errorf("the ingest was aborted: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return &os.PathError{Op: "rename", Path: path, Err: err}
	}
	// From here on the file is not the writer's.
	err, w.file = w.file.Close(), nil
	return errors.Join(err, state.SyncDir(filepath.Dir(path)))
}

// makeDurable makes a directory and those above it as far as they are missing.
func makeDurable(dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, os.ErrExist):
		return nil
	case errors.Is(err, os.ErrNotExist):
		if err := makeDurable(filepath.Dir(dir)); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	case err != nil:
		return err
	}
	return state.SyncDir(filepath.Dir(dir))
}

// finish removes the ingest of a blob that is recorded.
func (w *Writer) finish() error {
	w.ended = true
	var err error
	if w.file != nil {
		err = w.file.Close()
	}
	return errors.Join(err, w.in.remove())
}

// Close lets the ref go. What was written is made durable and stays. It may be called again, and after Commit.
func (w *Writer) Close() error {
	if w.ended {
		return nil
	}
	w.ended = true
	var errs []error
	if w.file != nil {
		if !w.changed.IsZero() {
			errs = append(errs, os.Chtimes(fmt.Sprint("/proc/self/fd/", w.file.Fd()), w.changed, w.changed))
		}
		if w.offset > w.synced {
			errs = append(errs, w.file.Sync())
		}
		errs = append(errs, w.file.Chmod(0o600), w.file.Close())
		if errors.Join(errs...) == nil && w.note.Synced != w.offset {
			w.note.Synced = w.offset
			errs = append(errs, w.in.writeNote(w.note))
		}
	}
	return errors.Join(append(errs, w.in.leave())...)
}

func (w *Writer) wrong(err error) error {
	return state.NoRoom(fmt.Errorf("ref %q: %w", w.note.Ref, err), w.in.path)
}

// Fill brings all that r has. r begins at the blob's beginning: what is there already is compared with it and not
// written again, and from the first difference on it is replaced.
func (w *Writer) Fill(ctx context.Context, r io.Reader) error {
	same, err := w.skip(ctx, r)
	if err != nil {
		return err
	}
	if _, err := w.Write(same); err != nil {
		return err
	}
	for buf := make([]byte, 256<<10); ; {
		n, err := r.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return w.wrong(err)
		}
	}
}

// skip reads what is there already from r. It throws away what is not the same, and gives what of r belongs in
// its place.
func (w *Writer) skip(ctx context.Context, r io.Reader) (rest []byte, err error) {
	have := w.file
	if w.note.Shared {
		if have, err = Open(w.d, w.note.Expected); err != nil {
			return nil, w.wrong(err)
		}
		defer have.Close()
	}
	got, there := make([]byte, 64<<10), make([]byte, 64<<10)
	for pos := int64(0); pos < w.offset; {
		if ctx.Err() != nil {
			return nil, w.wrong(context.Cause(ctx))
		}
		n, err := io.ReadFull(r, got[:min(int64(len(got)), w.offset-pos)])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, w.wrong(err)
		}
		if _, err := have.ReadAt(there[:n], pos); err != nil {
			return nil, w.wrong(err)
		}
		same := 0
		for same < n && got[same] == there[same] {
			same++
		}
		pos += int64(same)
		if same < n || err != nil {
			return got[same:n], w.Truncate(pos)
		}
	}
	return nil, nil
}
