// SPDX-License-Identifier: Apache-2.0

package content

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/state"
)

func openWriter(t *testing.T, d *state.Dir, ns string, o WriterOptions) *Writer {
	t.Helper()
	w, err := OpenWriter(ctx, d, ns, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func (w *Writer) add(t *testing.T, text string) {
	t.Helper()
	if n, err := w.Write([]byte(text)); n != len(text) || err != nil {
		t.Fatal(n, err)
	}
}

func put(t *testing.T, d *state.Dir, ns, text string) digest.Digest {
	t.Helper()
	w := openWriter(t, d, ns, WriterOptions{Ref: "put " + text})
	w.add(t, text)
	b, err := w.Commit(ctx, int64(len(text)), digest.FromString(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b.Digest
}

func refs(t *testing.T, d *state.Dir, ns string) string {
	t.Helper()
	var all []string
	for s, err := range Statuses(d, ns) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s.Ref)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func text(t *testing.T, d *state.Dir, ns string, dg digest.Digest, offset, size int64) string {
	t.Helper()
	r, err := OpenRange(ctx, d, ns, dg, offset, size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func get(t *testing.T, d *state.Dir, ns string, dg digest.Digest) (b Blob) {
	t.Helper()
	err := d.View(ctx, func(tx *state.Tx) (err error) {
		b, err = Get(tx, ns, dg)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWriter(t *testing.T) {
	d := openDir(t)
	want := "some bytes, and some more"
	dg := digest.FromString(want)
	w := openWriter(t, d, "one", WriterOptions{Ref: "a ref/with: things", Size: int64(len(want)), Digest: dg})
	w.add(t, want[:10])
	if got, err := w.Digest(); err != nil || got != digest.FromString(want[:10]) {
		t.Error(got, err)
	}
	s, err := GetStatus(d, "one", "a ref/with: things")
	if err != nil || s.Offset != 10 || s.Total != int64(len(want)) || s.Expected != dg || s.Started.IsZero() || s.Updated.IsZero() {
		t.Errorf("%+v %v", s, err)
	}
	if _, err := GetStatus(d, "two", "a ref/with: things"); !errdefs.IsNotFound(err) {
		t.Errorf("in another namespace: %v", err)
	}
	if _, err := OpenWriter(ctx, d, "one", WriterOptions{Ref: "a ref/with: things"}); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "locked") {
		t.Errorf("a second writer: %v", err)
	}
	openWriter(t, d, "two", WriterOptions{Ref: "a ref/with: things"}).Close()
	// The next writer goes on.
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w = openWriter(t, d, "one", WriterOptions{Ref: "a ref/with: things", Size: int64(len(want))})
	if got := w.Status(); got.Offset != 10 || !got.Started.Equal(s.Started) {
		t.Errorf("resumed: %+v", got)
	}
	for _, off := range []int64{1, 9, 11, -1} {
		if _, err := w.WriteAt([]byte("x"), off); !errdefs.IsOutOfRange(err) {
			t.Errorf("write at %d: %v", off, err)
		}
	}
	if _, err := w.WriteAt([]byte(want[10:]), 10); err != nil {
		t.Fatal(err)
	}
	b, err := w.Commit(ctx, int64(len(want)), dg, map[string]string{"k": "v", "empty": ""})
	if err != nil || b.Digest != dg || b.Size != int64(len(want)) || !maps.Equal(b.Labels, map[string]string{"k": "v"}) || b.Created.IsZero() {
		t.Fatalf("%+v %v", b, err)
	}
	if got := text(t, d, "one", dg, 0, 0); got != want {
		t.Errorf("read %q", got)
	}
	if st, err := os.Stat(Path(d, dg)); err != nil || st.Mode().Perm() != 0o444 {
		t.Error(st, err)
	}
	if got := refs(t, d, "one"); got != "" {
		t.Errorf("ingests are left: %q", got)
	}
	if got := refs(t, d, "two"); got != "a ref/with: things" {
		t.Errorf("ingests of two: %q", got)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if _, err := w.Commit(ctx, 0, "", nil); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestWriteAtBeginsAnew(t *testing.T) {
	d := openDir(t)
	w := openWriter(t, d, "ns", WriterOptions{Ref: "r"})
	w.add(t, "wrong")
	if _, err := w.WriteAt([]byte("right"), 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Truncate(6); !errdefs.IsOutOfRange(err) {
		t.Error(err)
	}
	if err := w.Truncate(4); err != nil {
		t.Fatal(err)
	}
	w.add(t, "!")
	if b, err := w.Commit(ctx, 0, "", nil); err != nil || b.Digest != digest.FromString("righ!") || b.Size != 5 {
		t.Error(b, err)
	}
}

func TestCommitExpects(t *testing.T) {
	d := openDir(t)
	dg := digest.FromString("data")
	for name, commit := range map[string]func(*Writer) (Blob, error){
		"size":   func(w *Writer) (Blob, error) { return w.Commit(ctx, 5, "", nil) },
		"digest": func(w *Writer) (Blob, error) { return w.Commit(ctx, 4, digest.FromString("other"), nil) },
	} {
		w := openWriter(t, d, name, WriterOptions{Ref: "r"})
		if w.Status().Offset == 0 {
			w.add(t, "data")
		}
		if _, err := commit(w); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", name, err)
		}
		// The ref can be used again at once, and has kept the bytes.
		w = openWriter(t, d, name, WriterOptions{Ref: "r"})
		if w.Status().Offset != 4 {
			t.Errorf("%s: %+v", name, w.Status())
		}
		if _, err := w.Commit(ctx, 4, dg, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := refs(t, d, name); got != "" {
			t.Errorf("%s: left: %q", name, got)
		}
	}
	w := openWriter(t, d, "ns", WriterOptions{Ref: "labels"})
	if _, err := w.Commit(ctx, 0, "", map[string]string{"": "x"}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestWriterOfWhatExists(t *testing.T) {
	d := openDir(t)
	dg := put(t, d, "ns", "data")
	w := openWriter(t, d, "ns", WriterOptions{Ref: "again"})
	if err := d.Update(ctx, nil, func(tx *state.Tx) error {
		_, err := lease.Create(tx, "ns", "l", nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// Also while the ref is locked, as in containerd.
	if _, err := OpenWriter(ctx, d, "ns", WriterOptions{Ref: "again", Digest: dg, Lease: "l"}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if got := leased(t, d, "l"); got != "content "+dg.String() {
		t.Errorf("the lease has %q", got)
	}
	w.add(t, "data")
	if b, err := w.Commit(ctx, 0, "", map[string]string{"a": "b"}); !errdefs.IsAlreadyExists(err) || b.Digest != dg {
		t.Error(b, err)
	}
	if got := refs(t, d, "ns"); got != "" {
		t.Errorf("left: %q", got)
	}
	if b := get(t, d, "ns", dg); len(b.Labels) != 0 {
		t.Errorf("the record has changed: %+v", b)
	}
}

func leased(t *testing.T, d *state.Dir, id string) string {
	t.Helper()
	var all []string
	err := d.View(ctx, func(tx *state.Tx) error {
		l, err := lease.Get(tx, "ns", id)
		if err != nil {
			return err
		}
		rs, err := l.Resources(tx, "ns")
		for _, r := range rs {
			all = append(all, r.Type+" "+r.ID)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, ", ")
}

func TestWriterWithLease(t *testing.T) {
	d := openDir(t)
	if _, err := OpenWriter(ctx, d, "ns", WriterOptions{Ref: "r", Lease: "none"}); !errdefs.IsNotFound(err) {
		t.Errorf("a lease that there is not: %v", err)
	}
	if got := refs(t, d, "ns"); got != "" {
		t.Errorf("left: %q", got)
	}
	if err := d.Update(ctx, nil, func(tx *state.Tx) error {
		_, err := lease.Create(tx, "ns", "l", nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	w := openWriter(t, d, "ns", WriterOptions{Ref: "r", Lease: "l"})
	if got := leased(t, d, "l"); got != "ingests r" {
		t.Errorf("the lease has %q", got)
	}
	w.add(t, "data")
	if _, err := w.Commit(ctx, 4, "", nil); err != nil {
		t.Fatal(err)
	}
	if got := leased(t, d, "l"); got != "content "+digest.FromString("data").String() {
		t.Errorf("the lease has %q", got)
	}
	openWriter(t, d, "ns", WriterOptions{Ref: "s", Lease: "l"}).Close()
	if err := Abort(ctx, d, "ns", "s", "l"); err != nil {
		t.Fatal(err)
	}
	if got := leased(t, d, "l"); strings.Contains(got, "ingests") {
		t.Errorf("the lease has %q", got)
	}
}

func TestAbort(t *testing.T) {
	d := openDir(t)
	w := openWriter(t, d, "ns", WriterOptions{Ref: "r"})
	w.add(t, "data")
	if err := Abort(ctx, d, "ns", "r", ""); err != nil {
		t.Fatal(err)
	}
	if err := Abort(ctx, d, "ns", "r", ""); !errdefs.IsNotFound(err) {
		t.Errorf("twice: %v", err)
	}
	// The ref is free, and the writer of before harms the new one in nothing.
	next := openWriter(t, d, "ns", WriterOptions{Ref: "r"})
	next.add(t, "new")
	if _, err := w.Commit(ctx, 0, "", nil); !errdefs.IsNotFound(err) {
		t.Errorf("commit of what was aborted: %v", err)
	}
	if b, err := next.Commit(ctx, 3, digest.FromString("new"), nil); err != nil || b.Size != 3 {
		t.Error(b, err)
	}
}

func TestShared(t *testing.T) {
	d := openDir(t)
	dg := put(t, d, "one", "data")
	if _, err := OpenRange(ctx, d, "two", dg, 0, 0); !errdefs.IsNotFound(err) {
		t.Errorf("it is seen in another namespace: %v", err)
	}
	w := openWriter(t, d, "two", WriterOptions{Ref: "r", Digest: dg, Size: 4})
	if s := w.Status(); s.Offset != 4 || s.Total != 4 || s.Expected != dg {
		t.Errorf("%+v", s)
	}
	if s, err := GetStatus(d, "two", "r"); err != nil || s.Offset != 4 {
		t.Errorf("%+v %v", s, err)
	}
	if got, err := w.Digest(); got != dg || err != nil {
		t.Error(got, err)
	}
	if b, err := w.Commit(ctx, 4, dg, map[string]string{"of": "two"}); err != nil || b.Size != 4 || b.Labels["of"] != "two" {
		t.Error(b, err)
	}
	if b := get(t, d, "one", dg); len(b.Labels) != 0 {
		t.Errorf("labels of one: %v", b.Labels)
	}
	// Another size, no digest: nothing is shared.
	for _, o := range []WriterOptions{{Ref: "size", Digest: dg, Size: 5}, {Ref: "none", Size: 4}} {
		if w := openWriter(t, d, "three", o); w.Status().Offset != 0 {
			t.Errorf("%+v", w.Status())
		}
	}
}

func TestUnshare(t *testing.T) {
	d := openDir(t)
	dg := put(t, d, "one", "data")
	w := openWriter(t, d, "two", WriterOptions{Ref: "r", Digest: dg})
	w.add(t, " and more")
	if b, err := w.Commit(ctx, 0, digest.FromString("data and more"), nil); err != nil {
		t.Error(b, err)
	}
	w = openWriter(t, d, "two", WriterOptions{Ref: "r", Digest: dg})
	if _, err := w.WriteAt([]byte("else"), 0); err != nil {
		t.Fatal(err)
	}
	if b, err := w.Commit(ctx, 4, "", nil); err != nil || b.Digest != digest.FromString("else") {
		t.Error(b, err)
	}
	if got := text(t, d, "one", dg, 0, 0); got != "data" {
		t.Errorf("the blob of one is %q", got)
	}
	w = openWriter(t, d, "two", WriterOptions{Ref: "r", Digest: dg})
	for _, err := range []error{
		func() error { _, err := w.Commit(ctx, 5, "", nil); return err }(),
		func() error {
			w := openWriter(t, d, "two", WriterOptions{Ref: "r", Digest: dg})
			_, err := w.Commit(ctx, 4, digest.FromString("x"), nil)
			return err
		}(),
	} {
		if !errdefs.IsFailedPrecondition(err) {
			t.Error(err)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	d := openDir(t)
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		dg := alg.FromString("data")
		for _, o := range []WriterOptions{{Ref: "with", Digest: dg}, {Ref: "without"}} {
			w := openWriter(t, d, o.Ref+alg.String(), o)
			if w.Status().Offset == 0 {
				w.add(t, "data")
			}
			if b, err := w.Commit(ctx, 4, dg, nil); err != nil || b.Digest != dg {
				t.Errorf("%s: %v %v", alg, b, err)
			}
		}
	}
	for _, bad := range []WriterOptions{{}, {Ref: "r", Size: -1}, {Ref: "r", Digest: "md5:x"}, {Ref: "r", Digest: "sha256:x"}, {Ref: strings.Repeat("r", maxRef+1)}} {
		if _, err := OpenWriter(ctx, d, "ns", bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.40v: %v", bad, err)
		}
	}
}

func TestOpenRange(t *testing.T) {
	d := openDir(t)
	dg := put(t, d, "ns", "0123456789")
	for _, c := range []struct {
		offset, size int64
		want         string
	}{{0, 0, "0123456789"}, {3, 2, "34"}, {3, -1, "3456789"}, {8, 100, "89"}, {10, 0, ""}, {10, 5, ""}} {
		if got := text(t, d, "ns", dg, c.offset, c.size); got != c.want {
			t.Errorf("%d+%d: %q", c.offset, c.size, got)
		}
	}
	for _, off := range []int64{11, -1} {
		if _, err := OpenRange(ctx, d, "ns", dg, off, 0); !errdefs.IsOutOfRange(err) {
			t.Errorf("offset %d: %v", off, err)
		}
	}
}

// After a reboot only what was synced is believed.
func TestWriterAfterReboot(t *testing.T) {
	d := openDir(t)
	w := openWriter(t, d, "ns", WriterOptions{Ref: "r"})
	w.add(t, "synced")
	w.Close()
	w = openWriter(t, d, "ns", WriterOptions{Ref: "r"})
	w.add(t, " not synced")
	// As a kill leaves it, in another boot.
	w.note.Boot = "another"
	if err := w.in.writeNote(w.note); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.in.held.Release(), w.file.Close(), w.in.root.Close()); err != nil {
		t.Fatal(err)
	}
	w.ended = true
	next := openWriter(t, d, "ns", WriterOptions{Ref: "r"})
	if next.Status().Offset != 6 {
		t.Errorf("%+v", next.Status())
	}
}

// Bytes that were written in place of synced ones are no synced ones after a power cut.
func TestTruncateAndReboot(t *testing.T) {
	d := openDir(t)
	w := openWriter(t, d, "ns", WriterOptions{Ref: "r"})
	w.add(t, "synced")
	w.Close()
	w = openWriter(t, d, "ns", WriterOptions{Ref: "r"})
	if err := w.Truncate(2); err != nil {
		t.Fatal(err)
	}
	w.add(t, "others")
	r, err := w.in.readNote()
	if err != nil || r.Synced != 2 {
		t.Errorf("%d bytes are said to survive a power cut, %v", r.Synced, err)
	}
	w.Close()
	if next := openWriter(t, d, "ns", WriterOptions{Ref: "r"}); next.Status().Offset != 8 || next.note.Synced != 8 {
		t.Errorf("%+v, %+v", next.Status(), next.note)
	}
}

// A blob without a record that is found damaged is removed, and not what somebody else has put in its place meanwhile.
func TestDamagedAndReplaced(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		d := openDir(t)
		dg := digest.FromString("right")
		path := Path(d, dg)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("wrong"), 0o444)); err != nil {
			t.Fatal(err)
		}
		i, err := Begin(t.Context(), d, nil, ocispec.Descriptor{Digest: dg, Size: 5})
		if err != nil || !i.Complete() {
			t.Fatal(err)
		}
		if replaced {
			put(t, d, "ns", "right")
		}
		if err := i.Commit(); !errdefs.IsFailedPrecondition(err) {
			t.Error(err)
		}
		if err := i.Close(); err != nil {
			t.Error(err)
		}
		if data, err := os.ReadFile(path); replaced != (err == nil && string(data) == "right") {
			t.Errorf("replaced %v: %q, %v", replaced, data, err)
		}
	}
}

// A note that is damaged, or of another ref, begins the ingest anew.
func TestDamagedNote(t *testing.T) {
	d := openDir(t)
	w := openWriter(t, d, "ns", WriterOptions{Ref: "r", Size: 10})
	w.add(t, "data")
	w.Close()
	w = openWriter(t, d, "ns", WriterOptions{Ref: "r", Size: 11})
	if s := w.Status(); s.Offset != 0 || s.Total != 11 {
		t.Errorf("another total: %+v", s)
	}
	w.add(t, "data")
	w.Close()
	if err := os.WriteFile(filepath.Join(refPath(d, "ns", "r"), "ref"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := refs(t, d, "ns"); got != "" {
		t.Errorf("listed: %q", got)
	}
	if w := openWriter(t, d, "ns", WriterOptions{Ref: "r"}); w.Status().Offset != 0 {
		t.Errorf("%+v", w.Status())
	}
}

// Twenty writers of one ref, each of which tries until it has the ref or the blob is there: one commits.
func TestManyWriters(t *testing.T) {
	d := openDir(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 10000)
	dg := digest.FromBytes(data)
	var wg sync.WaitGroup
	var mu sync.Mutex
	committed, existed := 0, 0
	for range 20 {
		wg.Go(func() {
			for {
				w, err := OpenWriter(ctx, d, "ns", WriterOptions{Ref: "r", Digest: dg, Size: int64(len(data))})
				if errdefs.IsUnavailable(err) {
					continue
				}
				if errdefs.IsAlreadyExists(err) {
					mu.Lock()
					existed++
					mu.Unlock()
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if _, err = w.Write(data[w.Status().Offset:]); err == nil {
					_, err = w.Commit(ctx, int64(len(data)), dg, nil)
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				committed++
				mu.Unlock()
				return
			}
		})
	}
	wg.Wait()
	if committed != 1 || existed != 19 {
		t.Errorf("%d have committed, for %d it was there", committed, existed)
	}
	if got := refs(t, d, "ns"); got != "" {
		t.Errorf("left: %q", got)
	}
}

// Fill brings the same whatever an earlier writer has left.
func TestFill(t *testing.T) {
	long := strings.Repeat("0123456789", 20000)
	for name, left := range map[string]string{"nothing": "", "some": long[:100000], "other": long[:70000] + "x" + long[70001:90000], "all": long, "more": long + "more"} {
		d := openDir(t)
		w := openWriter(t, d, "ns", WriterOptions{Ref: "r"})
		w.add(t, left)
		w.Close()
		w = openWriter(t, d, "ns", WriterOptions{Ref: "r"})
		if err := w.Fill(ctx, strings.NewReader(long)); err != nil {
			t.Fatal(name, err)
		}
		if b, err := w.Commit(ctx, int64(len(long)), digest.FromString(long), nil); err != nil {
			t.Error(name, b, err)
		}
		w = openWriter(t, d, "two", WriterOptions{Ref: "r", Digest: digest.FromString(long)})
		if err := w.Fill(ctx, strings.NewReader(long[:50])); err != nil {
			t.Fatal(name, err)
		}
		if b, err := w.Commit(ctx, 50, digest.FromString(long[:50]), nil); err != nil {
			t.Error(name, b, err)
		}
	}
}
