// SPDX-License-Identifier: Apache-2.0

package lease_test

import (
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/state"
)

const ns = "default"

func update(t *testing.T, d *state.Dir, fn func(*state.Tx) error) {
	t.Helper()
	if err := d.Update(ctx, nil, fn); err != nil {
		t.Fatal(err)
	}
}

func resources(t *testing.T, d *state.Dir, id string) (all []lease.Resource) {
	t.Helper()
	err := d.View(ctx, func(tx *state.Tx) error {
		l, err := lease.Get(tx, ns, id)
		if err != nil {
			return err
		}
		all, err = l.Resources(tx, ns)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	blob  = lease.Resource{Type: lease.ContentType, ID: digest.FromString("blob").String()}
	layer = lease.Resource{Type: lease.SnapshotType("overlayfs"), ID: "a key/with blanks"}
	ref   = lease.Resource{Type: lease.IngestType, ID: "layer-sha256:1"}
	img   = lease.Resource{Type: lease.ImageType, ID: "docker.io/library/x:1"}
)

func TestRecord(t *testing.T) {
	d, _ := fresh(t)
	update(t, d, func(tx *state.Tx) error {
		if _, err := lease.Create(tx, ns, "l", map[string]string{"a": "b"}); err != nil {
			return err
		}
		if _, err := lease.Create(tx, ns, "l", nil); !errdefs.IsAlreadyExists(err) {
			t.Errorf("twice: %v", err)
		}
		for _, r := range []lease.Resource{layer, blob, img, ref, blob} {
			if err := lease.Add(tx, ns, "l", r); err != nil {
				return err
			}
		}
		return lease.Add(tx, ns, "", blob)
	})
	want := []lease.Resource{blob, img, ref, layer}
	if got := resources(t, d, "l"); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	update(t, d, func(tx *state.Tx) error {
		if err := lease.Add(tx, "other", "l", blob); !errdefs.IsNotFound(err) {
			t.Errorf("in another namespace: %v", err)
		}
		if err := lease.Drop(tx, ns, "l", lease.Resource{Type: lease.ImageType, ID: "none"}); err != nil {
			t.Error(err)
		}
		return lease.Drop(tx, ns, "l", blob)
	})
	if got := resources(t, d, "l"); !slices.Equal(got, want[1:]) {
		t.Errorf("after Drop: %v", got)
	}
	// A later lease of the same id holds nothing of the one before.
	update(t, d, func(tx *state.Tx) error {
		if err := lease.Remove(tx, ns, "l"); err != nil {
			return err
		}
		if err := lease.Remove(tx, ns, "l"); !errdefs.IsNotFound(err) {
			t.Errorf("removed twice: %v", err)
		}
		_, err := lease.Create(tx, ns, "l", nil)
		return err
	})
	if got := resources(t, d, "l"); len(got) != 0 {
		t.Errorf("a new lease has %v", got)
	}
}

// A resource of this boot is written down in the database of this boot, and goes with a sweep.
func TestTransientResource(t *testing.T) {
	d, _ := fresh(t)
	update(t, d, func(tx *state.Tx) error {
		_, err := lease.Create(tx, ns, "l", nil)
		return err
	})
	if err := d.UpdateRun(ctx, nil, func(tx *state.Tx) error { return lease.Add(tx, ns, "l", layer) }); err != nil {
		t.Fatal(err)
	}
	update(t, d, func(tx *state.Tx) error { return lease.Add(tx, ns, "l", layer) })
	if got := resources(t, d, "l"); !slices.Equal(got, []lease.Resource{layer}) {
		t.Errorf("%v", got)
	}
	update(t, d, func(tx *state.Tx) error { return lease.Remove(tx, ns, "l") })
	ended := func() (all []lease.Resource) {
		must(d.View(ctx, func(tx *state.Tx) (err error) { all, err = lease.Ended(tx, ns); return err }))
		return all
	}
	if got := ended(); !slices.Equal(got, []lease.Resource{layer}) {
		t.Errorf("ended: %v", got)
	}
	if err := d.UpdateRun(ctx, nil, lease.Sweep); err != nil {
		t.Fatal(err)
	}
	if got := ended(); len(got) != 0 {
		t.Errorf("after the sweep: %v", got)
	}
}

func TestWrongResources(t *testing.T) {
	d, _ := fresh(t)
	update(t, d, func(tx *state.Tx) error {
		if _, err := lease.Create(tx, ns, "l", nil); err != nil {
			return err
		}
		for _, r := range []lease.Resource{
			{Type: "content", ID: "x"}, {Type: "content/x", ID: blob.ID}, {Type: "content", ID: ""}, {Type: "snapshots", ID: "k"}, {Type: "snapshots/", ID: "k"}, {Type: "snapshots/a/b", ID: "k"}, {Type: "images/x", ID: "k"}, {Type: "ingests/x", ID: "k"},
		} {
			if err := lease.Add(tx, ns, "l", r); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v: %v", r, err)
			}
		}
		if err := lease.Add(tx, ns, "l", lease.Resource{Type: "tasks", ID: "x"}); !errdefs.IsNotImplemented(err) {
			t.Error(err)
		}
		for _, id := range []string{"", "a\nb"} {
			if _, err := lease.Create(tx, ns, id, nil); !errdefs.IsInvalidArgument(err) {
				t.Errorf("id %q: %v", id, err)
			}
		}
		return nil
	})
}

func TestExpired(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]bool{
		"2026-01-02T03:04:04Z": true, "2026-01-02T03:04:06Z": false, "2026-01-02T05:04:04+02:00": true, "tomorrow": false, "": false,
	} {
		l := lease.Record{Labels: map[string]string{lease.LabelExpire: value}}
		if got := l.Expired(now); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
	if (lease.Record{}).Expired(now) {
		t.Error("a lease without an end has expired")
	}
}
