// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/state"
)

var ctx = context.Background()

// One id and one name stand for one sandbox; both are free again when it is removed.
func TestRecords(t *testing.T) {
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir(), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	update := func(fn func(tx *state.Tx) error) error { return d.Update(ctx, nil, fn) }
	var made sandbox.Sandbox
	err = update(func(tx *state.Tx) (err error) {
		made, err = sandbox.Create(tx, "ns", sandbox.Sandbox{ID: "abc1", Name: "n", Pod: json.RawMessage(`{"new":1}`)})
		return err
	})
	if err != nil || made.UID == "" || made.Created.IsZero() {
		t.Fatalf("%+v, %v", made, err)
	}
	for _, other := range []sandbox.Sandbox{{ID: "abc1"}, {ID: "abc2", Name: "n"}} {
		err := update(func(tx *state.Tx) error { _, err := sandbox.Create(tx, "ns", other); return err })
		if !errdefs.IsAlreadyExists(err) {
			t.Errorf("%+v: %v", other, err)
		}
	}
	if err := update(func(tx *state.Tx) error { _, err := sandbox.Create(tx, "ns", sandbox.Sandbox{ID: "../x"}); return err }); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an id that is none: %v", err)
	}
	err = d.View(ctx, func(tx *state.Tx) error {
		byName, err := sandbox.ByName(tx, "ns", "n")
		if err != nil || byName.UID != made.UID || string(byName.Pod) != `{"new":1}` {
			t.Errorf("by name: %+v, %v", byName, err)
		}
		found, err := sandbox.Find(tx, "ns", "abc")
		if err != nil || found.ID != "abc1" {
			t.Errorf("by the beginning of its id: %+v, %v", found, err)
		}
		_, err = sandbox.Find(tx, "ns", "")
		if !errdefs.IsNotFound(err) {
			t.Errorf("nothing: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := update(func(tx *state.Tx) error { return sandbox.Remove(tx, "ns", "abc1") }); err != nil {
		t.Fatal(err)
	}
	if err := update(func(tx *state.Tx) error { return sandbox.Remove(tx, "ns", "abc1") }); !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
	if err := update(func(tx *state.Tx) error {
		_, err := sandbox.Create(tx, "ns", sandbox.Sandbox{ID: "abc1", Name: "n"})
		return err
	}); err != nil {
		t.Errorf("the same once more: %v", err)
	}
}
