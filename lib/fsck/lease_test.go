// SPDX-License-Identifier: Apache-2.0

package fsck_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/fsck"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/state"
)

// Leases, namespaces and ingests are looked at, too.
func TestLeasesAndIngests(t *testing.T) {
	ctx := context.Background()
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir(), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	want := func(broken ...string) {
		t.Helper()
		found, err := fsck.Check(ctx, d, fsck.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range found {
			got = append(got, string(f.Severity)+" "+f.Kind+" "+f.Name)
		}
		slices.Sort(got)
		if !slices.Equal(got, broken) {
			t.Errorf("found %s\nwant %s", strings.Join(got, ", "), strings.Join(broken, ", "))
		}
	}
	dg := digest.FromString("data")
	w, err := content.OpenWriter(ctx, d, "one", content.WriterOptions{Ref: "r"})
	if err == nil {
		_, err = w.Write([]byte("data"))
	}
	if err == nil {
		_, err = w.Commit(ctx, 4, dg, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if w, err = content.OpenWriter(ctx, d, "two", content.WriterOptions{Ref: "r", Digest: dg}); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	err = d.Update(ctx, nil, func(tx *state.Tx) error {
		if _, err := lease.Create(tx, "one", "l", nil); err != nil {
			return err
		}
		if err := lease.Add(tx, "one", "l", lease.Resource{Type: lease.ImageType, ID: "none"}); err != nil {
			return err
		}
		if _, err := namespace.Create(tx, "made", nil); err != nil {
			return err
		}
		return content.Remove(tx, "one", dg) // what an ingest shares is no garbage
	})
	if err != nil {
		t.Fatal(err)
	}
	want()
	err = d.Update(ctx, nil, func(tx *state.Tx) error {
		if err := (state.Table[string]{Name: "leases"}).Put(tx, "one", "x", "damaged"); err != nil {
			return err
		}
		return state.Table[string]{Name: "namespaces"}.Put(tx, "made", "namespace", "damaged")
	})
	if err == nil {
		err = os.Remove(content.Path(d, dg))
	}
	if err != nil {
		t.Fatal(err)
	}
	want("broken ingest r", "broken lease x", "broken namespace made")
}
