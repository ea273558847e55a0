// SPDX-License-Identifier: Apache-2.0

package content

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/state"
)

var ctx = context.Background()

func openDir(t *testing.T) *state.Dir {
	t.Helper()
	base := t.TempDir()
	return reopen(t, filepath.Join(base, "root"), filepath.Join(base, "state"))
}

func reopen(t *testing.T, root, run string) *state.Dir {
	t.Helper()
	d, err := state.Open(state.Config{Root: root, State: run, Wait: 0})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func noise(n int) ([]byte, ocispec.Descriptor) {
	b := make([]byte, n)
	rand.Read(b)
	return b, ocispec.Descriptor{MediaType: "test", Digest: digest.FromBytes(b), Size: int64(n)}
}

func begin(t *testing.T, d *state.Dir, desc ocispec.Descriptor) *Ingest {
	t.Helper()
	i, err := Begin(ctx, d, nil, desc)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// store brings data into the store whole.
func store(t *testing.T, d *state.Dir, data []byte, desc ocispec.Descriptor) {
	t.Helper()
	i := begin(t, d, desc)
	if !i.Complete() && len(data) > 0 {
		write(t, i, data, 0)
	}
	if err := i.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, i *Ingest, p []byte, off int64) {
	t.Helper()
	if n, err := i.WriteAt(p, off); err != nil || n != len(p) {
		t.Fatal(n, err)
	}
}

func TestIngest(t *testing.T) {
	for _, size := range []int{0, 1, 100000} {
		d := openDir(t)
		data, desc := noise(size)
		store(t, d, data, desc)
		got, err := ReadAll(d, desc, 1<<20)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if left, _ := os.ReadDir(d.Path("content", "ingest")); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
		i := begin(t, d, desc)
		if !i.Complete() || len(i.Missing()) != 0 || i.Resumed() != int64(size) {
			t.Errorf("second Begin: complete %v, missing %v", i.Complete(), i.Missing())
		}
		got, err = io.ReadAll(i.Follow())
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("following a present blob: %d bytes, %v", len(got), err)
		}
		if err := errors.Join(i.Commit(), i.Close()); err != nil {
			t.Error(err)
		}
	}
}

// Pieces come in any order, from several goroutines; the follower sees the bytes in order.
func TestFollow(t *testing.T) {
	d := openDir(t)
	data, desc := noise(1 << 20)
	i := begin(t, d, desc)
	defer i.Close()
	for w := range 4 {
		go func() {
			for n := 15 - w; n >= 0; n -= 4 {
				off := n << 16
				i.WriteAt(data[off:off+1<<16], int64(off))
			}
		}()
	}
	got, err := io.ReadAll(i.Follow())
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := i.Commit(); err != nil {
		t.Fatal(err)
	}
}

func TestFollowFails(t *testing.T) {
	d := openDir(t)
	data, desc := noise(1000)
	i := begin(t, d, desc)
	defer i.Close()
	write(t, i, data[:400], 0)
	mine := errors.New("mine")
	i.Fail(mine)
	got, err := io.ReadAll(i.Follow())
	if len(got) != 400 || err != mine {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := i.Commit(); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "incomplete") {
		t.Errorf("commit: %v", err)
	}
}

func TestResume(t *testing.T) {
	d := openDir(t)
	data, desc := noise(1000)
	i := begin(t, d, desc)
	write(t, i, data[100:300], 100)
	write(t, i, data[500:600], 500)
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	// What a process that was killed in the middle of a line leaves.
	list := filepath.Join(IngestPath(d, desc.Digest), "ranges")
	f, _ := os.OpenFile(list, os.O_WRONLY|os.O_APPEND, 0)
	f.WriteString("700 5")
	f.Close()

	i = begin(t, d, desc)
	if got := fmt.Sprint(i.Missing()); got != "[{0 100} {300 500} {600 1000}]" || i.Resumed() != 300 {
		t.Fatalf("missing %s, resumed %d", got, i.Resumed())
	}
	for _, r := range i.Missing() {
		write(t, i, data[r.Start:r.End], r.Start)
	}
	if err := i.Commit(); err != nil {
		t.Fatal(err)
	}
	i.Close()
	if got, err := ReadAll(d, desc, 1000); err != nil || !bytes.Equal(got, data) {
		t.Error(err)
	}
}

// A list that tells of bytes the data file does not have, or of nonsense, is not believed.
func TestDamagedRanges(t *testing.T) {
	for _, text := range []string{"0 900\n", "0 100\nx\n", "0 -5\n", "5\n", "0 100 3\n", "18446744073709551615 2\n"} {
		d := openDir(t)
		data, desc := noise(1000)
		i := begin(t, d, desc)
		write(t, i, data[:500], 0)
		i.Close()
		os.WriteFile(filepath.Join(IngestPath(d, desc.Digest), "ranges"), []byte(text), 0o600)
		i = begin(t, d, desc)
		if got := fmt.Sprint(i.Missing()); got != "[{0 1000}]" {
			t.Errorf("%q: missing %s", text, got)
		}
		i.Close()
	}
}

func TestWrongDigest(t *testing.T) {
	d := openDir(t)
	data, desc := noise(1000)
	i := begin(t, d, desc)
	bad := bytes.Clone(data)
	bad[7] ^= 1
	write(t, i, bad, 0)
	err := i.Commit()
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), desc.Digest.String()) || !strings.Contains(err.Error(), digest.FromBytes(bad).String()) {
		t.Errorf("commit: %v", err)
	}
	if !i.Discarded() {
		t.Error("it is not said that the bytes are gone")
	}
	i.Close()
	if _, err := Open(d, desc.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("a wrong blob is there: %v", err)
	}
	i = begin(t, d, desc)
	if i.Resumed() != 0 {
		t.Errorf("the next try begins with %d bytes of the wrong ones", i.Resumed())
	}
	i.Close()
	store(t, d, data, desc)
}

func TestWriteOutside(t *testing.T) {
	d := openDir(t)
	_, desc := noise(100)
	i := begin(t, d, desc)
	defer i.Close()
	for _, c := range []struct {
		off int64
		n   int
	}{{-1, 5}, {96, 5}, {1000, 1}} {
		if _, err := i.WriteAt(make([]byte, c.n), c.off); !errdefs.IsOutOfRange(err) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestBadDescriptors(t *testing.T) {
	d := openDir(t)
	for _, dg := range []digest.Digest{"", "sha256:../../etc", "sha256:00", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := Begin(ctx, d, nil, ocispec.Descriptor{Digest: dg}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Begin %q: %v", dg, err)
		}
		if _, err := Open(d, dg); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Open %q: %v", dg, err)
		}
	}
	_, desc := noise(1)
	desc.Size = -1
	if _, err := Begin(ctx, d, nil, desc); !errdefs.IsInvalidArgument(err) {
		t.Errorf("negative size: %v", err)
	}
}

// An unrecorded file that was not hashed in this boot is hashed again; a recorded one is trusted.
func TestAdopt(t *testing.T) {
	d := openDir(t)
	data, desc := noise(1000)
	path := Path(d, desc.Digest)
	plant := func(b []byte) {
		os.MkdirAll(filepath.Dir(path), 0o700)
		os.Remove(path)
		if err := os.WriteFile(path, b, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	plant(data)
	i := begin(t, d, desc)
	if !i.Complete() || i.trust {
		t.Errorf("complete %v, trusted %v", i.Complete(), i.trust)
	}
	if err := errors.Join(i.Commit(), i.Close()); err != nil {
		t.Error(err)
	}
	i = begin(t, d, desc)
	if !i.trust {
		t.Error("not trusted after it was hashed")
	}
	i.Close()

	plant(make([]byte, 1000))
	i = begin(t, d, desc)
	if err := i.Commit(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a damaged orphan: %v", err)
	}
	i.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a damaged orphan stays: %v", err)
	}
	plant(data[:10])
	i = begin(t, d, desc)
	if i.Complete() {
		t.Error("a short orphan passes as complete")
	}
	i.Close()

	plant(data)
	if err := d.Update(ctx, nil, func(tx *state.Tx) error { return Put(tx, "ns", Blob{Digest: desc.Digest, Size: 1000}) }); err != nil {
		t.Fatal(err)
	}
	i = begin(t, d, desc)
	if !i.trust {
		t.Error("a recorded blob is not trusted")
	}
	i.Close()
	desc.Size = 999
	if _, err := Begin(ctx, d, nil, desc); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("another size: %v", err)
	}
}

// Damage done to a recorded blob after it was hashed: Repair finds it, and what then arrives replaces it.
func TestRepair(t *testing.T) {
	for name, damaged := range map[string]func([]byte) []byte{
		"changed":   func(b []byte) []byte { b[7] ^= 1; return b },
		"shortened": func(b []byte) []byte { return b[:10] },
		"emptied":   func([]byte) []byte { return nil },
	} {
		d := openDir(t)
		data, desc := noise(1000)
		store(t, d, data, desc)
		if err := d.Update(ctx, nil, func(tx *state.Tx) error { return Put(tx, "ns", Blob{Digest: desc.Digest, Size: 1000}) }); err != nil {
			t.Fatal(err)
		}
		os.Chmod(Path(d, desc.Digest), 0o600)
		if err := os.WriteFile(Path(d, desc.Digest), damaged(bytes.Clone(data)), 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := Repair(ctx, d, nil, desc)
		if err != nil || i.Complete() || i.Resumed() != 0 {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := os.Stat(Path(d, desc.Digest)); err != nil {
			t.Errorf("%s: a record has lost its file: %v", name, err)
		}
		write(t, i, data, 0)
		if err := errors.Join(i.Commit(), i.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := ReadAll(d, desc, 1000); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %v", name, err)
		}
		if i, err = Repair(ctx, d, nil, desc); err != nil || !i.Complete() || !i.trust {
			t.Fatalf("%s: a whole blob is not taken as it is: %v", name, err)
		}
		i.Close()
		desc.Size = 999
		if _, err := Repair(ctx, d, nil, desc); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: another size: %v", name, err)
		}
	}
}

func TestBusy(t *testing.T) {
	d := openDir(t)
	_, desc := noise(10)
	i := begin(t, d, desc)
	defer i.Close()
	var busy *lock.BusyError
	if _, err := Begin(ctx, d, nil, desc); !errors.As(err, &busy) {
		t.Errorf("a second Begin: %v", err)
	}
}

func TestReadAll(t *testing.T) {
	d := openDir(t)
	data, desc := noise(1000)
	if _, err := ReadAll(d, desc, 1000); !errdefs.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
	store(t, d, data, desc)
	if _, err := ReadAll(d, desc, 999); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("too large: %v", err)
	}
	os.Chmod(Path(d, desc.Digest), 0o600)
	os.WriteFile(Path(d, desc.Digest), make([]byte, 1000), 0o600)
	if _, err := ReadAll(d, desc, 1000); !errdefs.IsDataLoss(err) {
		t.Errorf("damaged: %v", err)
	}
}
