// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/state"
)

// A memory says what a plain read says, whatever has changed meanwhile and in which database, and gives what has not changed as it was.
func TestRecall(t *testing.T) {
	d := fresh(t)
	rng := rand.New(rand.NewPCG(3, 4))
	var m state.Memory[string]
	recall := func() map[string]*string {
		found := map[string]*string{}
		var rows []state.Recalled[string]
		err := d.View(t.Context(), func(tx *state.Tx) (err error) {
			if rows, err = texts.Recall(tx, "ns", &m); err != nil {
				return err
			}
			var plain []state.Row[string]
			for row, err := range texts.All(tx, "ns") {
				if err != nil {
					return err
				}
				plain = append(plain, row)
			}
			if len(plain) != len(rows) {
				t.Errorf("%d records, want %d", len(rows), len(plain))
				return nil
			}
			for i, row := range rows {
				if row.Key != plain[i].Key || *row.Value != plain[i].Value || row.Err != nil {
					t.Errorf("record %d is %q %q, %v; want %+v", i, row.Key, *row.Value, row.Err, plain[i])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			found[row.Key] = row.Value
		}
		return found
	}
	recall()
	for i := range 60 {
		before := recall()
		key, ns := fmt.Sprintf("key%d", rng.IntN(20)), "ns"
		if i%5 == 0 {
			ns = "other"
		}
		update := d.Update
		if i%2 == 0 {
			update, key = d.UpdateRun, key+"-run"
		}
		err := update(t.Context(), nil, func(tx *state.Tx) error {
			if i%7 == 3 {
				if err := texts.Delete(tx, ns, key); !errdefs.IsNotFound(err) {
					return err
				}
			}
			return texts.Put(tx, ns, key, fmt.Sprint(i))
		})
		if err != nil {
			t.Fatal(err)
		}
		after := recall()
		for k, v := range after {
			if same := v == before[k]; same != (ns != "ns" || k != key) && before[k] != nil {
				t.Errorf("step %d changed %s/%s: %s is the same: %v", i, ns, key, k, same)
			}
		}
	}
	before := recall()
	m.Forget()
	for k, v := range recall() {
		if v == before[k] {
			t.Errorf("%s was not forgotten", k)
		}
	}
}

// A record that cannot be decoded is told, and the others with it.
func TestRecallDamaged(t *testing.T) {
	d := fresh(t)
	err := d.Update(t.Context(), nil, func(tx *state.Tx) error {
		return state.Table[int]{Name: "texts"}.Put(tx, "ns", "bad", 1)
	})
	if err == nil {
		err = d.Update(t.Context(), nil, func(tx *state.Tx) error { return texts.Put(tx, "ns", "good", "x") })
	}
	if err != nil {
		t.Fatal(err)
	}
	var m state.Memory[string]
	for range 2 {
		err := d.View(t.Context(), func(tx *state.Tx) error {
			rows, err := texts.Recall(tx, "ns", &m)
			if err == nil && (len(rows) != 2 || !errdefs.IsDataLoss(rows[0].Err) || *rows[1].Value != "x") {
				t.Errorf("%+v", rows)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
