// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
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
	_, mounts := b.sn.Driver.Mounts(b.d, chain, false)
	_, open := b.sn.Open(b.d, chain)
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
	s.Verity = other
	b.update(func(tx *state.Tx) error {
		return state.Table[snapshot.Info]{Name: "snapshots/erofs"}.Put(tx, "ns", "top", s)
	})
	if got := b.get("top").Verity; got != other {
		t.Fatal(got)
	}
	b.refusedFor("top", other.String())
	if err := snapshot.Erofs.Driver.(snapshot.Prover).Prove(t.Context(), b.d, s); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "was changed") {
		t.Error(err)
	}
	// The right one, of a file that has none, is refused, too; reading tells that the contents are right.
	f, err := os.Open(b.image("top"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s.Verity, err = verity.Digest(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	b.update(func(tx *state.Tx) error {
		return state.Table[snapshot.Info]{Name: "snapshots/erofs"}.Put(tx, "ns", "top", s)
	})
	if err := snapshot.Erofs.Driver.(snapshot.Prover).Prove(t.Context(), b.d, s); err != nil {
		t.Error(err)
	}
	if has, _ := verity.Measure(b.image("top")); has == "" {
		b.refusedFor("top", "has lost fs-verity")
	} else if err := b.sn.Check(b.d, s); err != nil {
		t.Error(err)
	}
	s.Verity = ""
	b.update(func(tx *state.Tx) error {
		return state.Table[snapshot.Info]{Name: "snapshots/erofs"}.Put(tx, "ns", "top", s)
	})
	if got := b.read("view", "top"); got != "top" {
		t.Error(got)
	}
}

// TestVerityLeft: a kill may leave a protected file under the name of one that is being made.
func TestVerityLeft(t *testing.T) {
	b := erofsBench(t)
	b.prepare("b", "top")
	to := snapshot.NewID()
	left := b.sn.Path(b.d, to, "layer.erofs.new")
	must(t, os.MkdirAll(filepath.Dir(left), 0o700))
	must(t, os.WriteFile(left, []byte("left"), 0o600))
	if _, err := verity.Protect(left); err != nil {
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
	b.refusedFor("top", "has lost fs-verity")
	if err := snapshot.Erofs.Driver.(snapshot.Prover).Prove(t.Context(), b.d, b.get("top")); err != nil {
		t.Error(err)
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
