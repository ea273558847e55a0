// SPDX-License-Identifier: Apache-2.0

package content

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/state"
)

func TestRecords(t *testing.T) {
	d := openDir(t)
	_, a := noise(10)
	_, b := noise(20)
	update := func(fn func(tx *state.Tx) error) error { return d.Update(ctx, nil, fn) }
	err := update(func(tx *state.Tx) error {
		if err := Put(tx, "one", Blob{Digest: a.Digest, Size: 10, Labels: map[string]string{"k": "v"}}); err != nil {
			return err
		}
		return Put(tx, "two", Blob{Digest: b.Digest, Size: 20})
	})
	if err != nil {
		t.Fatal(err)
	}
	err = d.View(ctx, func(tx *state.Tx) error {
		got, err := Get(tx, "one", a.Digest)
		if err != nil || got.Size != 10 || got.Labels["k"] != "v" || got.Digest != a.Digest || got.Created.IsZero() {
			t.Errorf("Get: %+v, %v", got, err)
		}
		if _, err := Get(tx, "one", b.Digest); !errdefs.IsNotFound(err) {
			t.Errorf("another namespace's blob is visible: %v", err)
		}
		n := 0
		for got, err := range All(tx, "one") {
			if err != nil || got.Digest != a.Digest {
				t.Errorf("All: %+v, %v", got, err)
			}
			n++
		}
		if n != 1 {
			t.Errorf("All yields %d", n)
		}
		if ok, err := Recorded(tx, b.Digest); !ok || err != nil {
			t.Errorf("Recorded: %v, %v", ok, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = update(func(tx *state.Tx) error {
		before, _ := Get(tx, "one", a.Digest)
		if err := Merge(tx, "one", Blob{Digest: a.Digest, Size: 10, Labels: map[string]string{"l": "w"}}); err != nil {
			return err
		}
		if err := Label(tx, "one", a.Digest, map[string]string{"k": "", "m": "x"}); err != nil {
			return err
		}
		got, err := Get(tx, "one", a.Digest)
		if err != nil || fmt.Sprint(got.Labels) != "map[l:w m:x]" || !got.Created.Equal(before.Created) {
			t.Errorf("after the labels: %+v, %v", got, err)
		}
		return Remove(tx, "two", b.Digest)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := update(func(tx *state.Tx) error { return Remove(tx, "two", b.Digest) }); !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
	var topics []string
	for e, err := range d.Journal().Read(ctx, 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		topics = append(topics, e.Namespace+e.Topic)
	}
	if got := strings.Join(topics, " "); got != "one/content/create two/content/create two/content/delete" {
		t.Errorf("events %q", got)
	}
}

func TestLabelLimit(t *testing.T) {
	d := openDir(t)
	_, a := noise(10)
	for n, ok := range map[int]bool{label.Max - 1: true, label.Max: false} {
		err := d.Update(ctx, nil, func(tx *state.Tx) error {
			return Put(tx, "ns", Blob{Digest: a.Digest, Labels: map[string]string{"k": strings.Repeat("v", n)}})
		})
		if ok && err != nil || !ok && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%d bytes: %v", n+1, err)
		}
	}
}

func TestWalk(t *testing.T) {
	d := openDir(t)
	data, a := noise(10)
	_, b := noise(20)
	for range Files(d) {
		t.Error("a file in an empty store")
	}
	store(t, d, data, a)
	i := begin(t, d, b)
	write(t, i, make([]byte, 5), 0)
	i.Close()
	for f, err := range Files(d) {
		if err != nil || f.Digest != a.Digest || f.Size != 10 || f.Path != Path(d, a.Digest) {
			t.Errorf("file %+v, %v", f, err)
		}
	}
	for f, err := range Ingests(d) {
		if err != nil || f.Digest != b.Digest || f.Size != 5 || f.Path != IngestPath(d, b.Digest) {
			t.Errorf("ingest %+v, %v", f, err)
		}
	}
}
