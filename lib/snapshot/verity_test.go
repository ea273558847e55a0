// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/verity"
)

// erofsBench is a bench with a committed snapshot, base, one on top of it, top, and a view of that.
func erofsBench(t *testing.T) *bench {
	b := newBench(t, snapshot.Erofs, t.TempDir())
	if err := snapshot.Erofs.Ready(b.d); err != nil {
		t.Skip(err)
	}
	for _, s := range []struct{ key, parent string }{{"base", ""}, {"top", "base"}} {
		b.prepare("a", s.parent)
		b.write("a", s.key, s.key)
		if _, err := b.sn.Seal(t.Context(), b.d, "ns", s.key, "a", snapshot.CommitOptions{}, nobody); err != nil {
			t.Fatal(err)
		}
	}
	b.look("view", "top")
	return b
}

func (b *bench) image(key string) string { return b.sn.Path(b.d, b.get(key).ID, "layer.erofs") }

// refusedFor checks that nothing stands on a committed snapshot any more whose file is not the one that was recorded.
func (b *bench) refusedFor(key, text string) {
	b.Helper()
	s := b.get(key)
	chain := []snapshot.Info{b.get("view"), b.get("top"), b.get("base")}
	_, mounts := b.sn.Driver.Mounts(b.Context(), b.d, chain, false)
	_, open := b.sn.Open(b.Context(), b.d, chain)
	for _, err := range []error{mounts, open, b.sn.Check(b.d, s)} {
		var wrong *snapshot.VerityError
		if !errors.As(err, &wrong) || !errdefs.IsDataLoss(err) || wrong.Path != b.image(key) || !strings.Contains(err.Error(), text) || !strings.Contains(wrong.Hint(), "pull the image again") {
			b.Errorf("%v", err)
		}
	}
	if !strings.Contains(mounts.Error(), `snapshot "`+key+`"`) {
		b.Error(mounts)
	}
}

// record has the record of a committed snapshot say another digest.
func (b *bench) record(key string, verity digest.Digest) snapshot.Info {
	b.Helper()
	s := b.get(key)
	s.Verity = verity
	b.update(func(tx *state.Tx) error {
		return state.Table[snapshot.Info]{Name: "snapshots/erofs"}.Put(tx, "ns", key, s)
	})
	return s
}

// digestOf computes the digest of the file of a committed snapshot.
func (b *bench) digestOf(key string) digest.Digest {
	b.Helper()
	f, err := os.Open(b.image(key))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	dg, err := verity.Digest(b.Context(), f)
	if err != nil {
		b.Fatal(err)
	}
	return dg
}

// listening opens the state directory once more, and counts what it warns of.
func (b *bench) listening() (*state.Dir, *atomic.Int32) {
	b.Helper()
	said := &atomic.Int32{}
	d, err := state.Open(state.Config{Root: b.d.Path(), State: b.d.Run(), Wait: -1, Warn: func(err error) {
		b.Log(err)
		said.Add(1)
	}})
	if err != nil {
		b.Fatal(err)
	}
	return d, said
}

// TestVerityRecorded: what a record says of fs-verity is compared before each use, and one that says nothing is used as it is.
func TestVerityRecorded(t *testing.T) {
	b := erofsBench(t)
	if got := b.read("view", "base") + b.read("view", "top"); got != "basetop" {
		t.Fatal(got)
	}
	s := b.get("top")
	if has, err := verity.Measure(b.image("top")); err != nil || has != s.Verity {
		t.Errorf("recorded as %q, is %q, %v", s.Verity, has, err)
	}
	other := digest.FromString("other")
	if s = b.record("top", other); b.get("top").Verity != other {
		t.Fatal(b.get("top").Verity)
	}
	if err := snapshot.Erofs.Driver.(snapshot.Prover).Prove(t.Context(), b.d, s); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "was changed") {
		t.Error(err)
	}
	b.refusedFor("top", other.String())
	b.record("top", "")
	if got := b.read("view", "top"); got != "top" {
		t.Error(got)
	}
}

// TestVerityLost: a file that has lost fs-verity is read once, and used if its contents are those that were recorded: also by
// many at once, and after the work of one that was cancelled. A file that is there instead is read again, and so is one that was
// changed.
func TestVerityLost(t *testing.T) {
	b := erofsBench(t)
	if b.get("top").Verity != "" {
		t.Skip("there is fs-verity here: see TestVerityKernel")
	}
	prover := snapshot.Erofs.Driver.(snapshot.Prover)
	s := b.record("top", b.digestOf("top"))
	if err := b.sn.Check(b.d, s); !snapshot.Unproven(err) || !errdefs.IsDataLoss(err) {
		t.Errorf("before any use: %v", err)
	}
	if at, lost := prover.Proven(b.d, s); !lost || !at.IsZero() {
		t.Errorf("before any use: lost %v, proven at %v", lost, at)
	}
	d, said := b.listening()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.sn.Attest(over, d, s); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	said.Store(0)
	chain := []snapshot.Info{b.get("view"), s, b.get("base")}
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			if _, err := b.sn.Driver.Mounts(t.Context(), d, chain, false); err != nil {
				t.Error(err)
			}
		})
	}
	users.Wait()
	uses := func(times int32, what string) {
		t.Helper()
		if err := errors.Join(b.sn.Attest(t.Context(), d, s), b.sn.Check(d, s)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if n := said.Swap(0); n != times {
			t.Errorf("%s: read %d times, want %d", what, n, times)
		}
		if at, lost := prover.Proven(b.d, s); !lost || at.IsZero() {
			t.Errorf("%s: lost %v, proven at %v", what, lost, at)
		}
	}
	uses(1, "by many")
	uses(0, "again")
	if got := b.read("view", "top"); got != "top" {
		t.Error(got)
	}
	// What is committed in place says what is known of it.
	if f, err := b.sn.Fix(t.Context(), d, s.ID, s.ID); err != nil || f.Verity != s.Verity {
		t.Errorf("%+v, %v", f, err)
	}
	path := b.image("top")
	data, err := os.ReadFile(path)
	must(t, err)
	st, err := os.Stat(path)
	must(t, err)
	must(t, os.Rename(path, path+".kept"))
	must(t, os.WriteFile(path, data, 0o600))
	must(t, os.Chtimes(path, st.ModTime(), st.ModTime()))
	if err := b.sn.Check(d, s); !snapshot.Unproven(err) {
		t.Errorf("of a copy: %v", err)
	}
	uses(1, "a copy")
	// The same length and times, and another byte.
	data[len(data)-1] ^= 1
	must(t, os.WriteFile(path, data, 0o600))
	must(t, os.Chtimes(path, st.ModTime(), st.ModTime()))
	said.Store(0)
	if err := b.sn.Attest(t.Context(), d, s); !errdefs.IsDataLoss(err) || snapshot.Unproven(err) {
		t.Errorf("of another file: %v", err)
	}
	b.refusedFor("top", "was changed")
	if _, err := b.sn.Driver.Mounts(t.Context(), d, chain, false); !errdefs.IsDataLoss(err) || said.Load() != 1 {
		t.Errorf("another file was read %d times: %v", said.Load(), err)
	}
	said.Store(0)
	must(t, os.Rename(path+".kept", path))
	uses(1, "the first one")
}

// TestVerityLeft: a kill may leave a protected file under the name of one that is being made.
func TestVerityLeft(t *testing.T) {
	b := erofsBench(t)
	b.prepare("b", "top")
	to := snapshot.NewID()
	left := b.sn.Path(b.d, to, "layer.erofs.new")
	must(t, os.MkdirAll(filepath.Dir(left), 0o700))
	must(t, os.WriteFile(left, []byte("left"), 0o600))
	if _, err := verity.Protect(t.Context(), left); err != nil {
		t.Fatal(err)
	}
	var first snapshot.Fixed
	for range 2 { // the second time it is there
		f, err := b.sn.Fix(t.Context(), b.d, b.get("b").ID, to)
		if err != nil {
			t.Fatal(err)
		}
		if first.ID == "" {
			first = f
		}
		if err := b.sn.Check(b.d, snapshot.Info{ID: to, Verity: first.Verity}); err != nil || f.Verity != first.Verity {
			t.Errorf("%q, then %q: %v", first.Verity, f.Verity, err)
		}
	}
}

// TestVerityKernel: where the kernel and the file system have fs-verity, each file of a layer has it, a change of the file is
// told, and a removal is as ever.
func TestVerityKernel(t *testing.T) {
	b := erofsBench(t)
	if b.get("top").Verity == "" {
		t.Skip("no fs-verity here")
	}
	top := b.image("top")
	data, err := os.ReadFile(top)
	must(t, err)
	must(t, os.Rename(top, top+".kept"))
	must(t, os.WriteFile(top, data, 0o600))
	prover := snapshot.Erofs.Driver.(snapshot.Prover)
	if err := prover.Prove(t.Context(), b.d, b.get("top")); err != nil {
		t.Error(err)
	}
	if err := b.sn.Check(b.d, b.get("top")); !snapshot.Unproven(err) {
		t.Errorf("of a copy: %v", err)
	}
	// Its contents are right, so it is protected again, also by many at once.
	d, said := b.listening()
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			if err := b.sn.Attest(t.Context(), d, b.get("top")); err != nil {
				t.Error(err)
			}
		})
	}
	users.Wait()
	if has, err := verity.Measure(top); has != b.get("top").Verity || err != nil || said.Load() != 1 {
		t.Errorf("%q, %v, read %d times", has, err, said.Load())
	}
	if _, lost := prover.Proven(b.d, b.get("top")); lost {
		t.Error("not protected again")
	}
	must(t, os.Remove(top))
	data[len(data)-1] ^= 1
	must(t, os.WriteFile(top, data, 0o600))
	b.refusedFor("top", "was changed")
	if has, err := verity.Measure(top); has != "" || err != nil {
		t.Errorf("a wrong file was protected: %q, %v", has, err)
	}
	must(t, os.Remove(top))
	must(t, os.Link(b.image("base"), top))
	b.refusedFor("top", "was changed")
	must(t, os.Rename(top+".kept", top))
	if got := b.read("view", "top"); got != "top" {
		t.Error(got)
	}
	for _, key := range []string{"view", "top", "base"} {
		must(t, b.sn.Delete(t.Context(), b.d, "ns", key, nobody))
	}
	b.d.EmptyTrash()
	for id := range b.sn.Dirs(b.d) {
		if id != "" {
			t.Error("left: ", id)
		}
	}
}
