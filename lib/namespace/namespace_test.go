// SPDX-License-Identifier: Apache-2.0

package namespace_test

import (
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/state"
)

var ctx = context.Background()

func update(t *testing.T, fn func(*state.Tx) error) *state.Dir {
	t.Helper()
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir(), Wait: -1})
	if err == nil {
		err = d.Update(ctx, nil, fn)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func blob(tx *state.Tx, ns, text string) error {
	return content.Put(tx, ns, content.Blob{Digest: digest.FromString(text), Size: int64(len(text))})
}

func list(t *testing.T, tx *state.Tx) string {
	t.Helper()
	var all []string
	for n, err := range namespace.All(tx) {
		if err != nil {
			t.Error(err)
		}
		all = append(all, n.Name)
	}
	return strings.Join(all, " ")
}

// A namespace of which nothing is known has no labels; an update makes it, as in containerd's API.
func TestImplicit(t *testing.T) {
	long := strings.Repeat("x", 76)
	update(t, func(tx *state.Tx) error {
		n, err := namespace.Get(tx, "none")
		if err != nil || n.Name != "none" || len(n.Labels) != 0 {
			t.Error(n, err)
		}
		if ok, err := namespace.Exists(tx, "none"); ok || err != nil {
			t.Error(ok, err)
		}
		if _, err := namespace.Update(tx, long, map[string]string{"a.b/c": "1", "x": "y"}, "labels.a.b/c"); err != nil {
			return err
		}
		if n, err = namespace.Get(tx, long); err != nil || !maps.Equal(n.Labels, map[string]string{"a.b/c": "1"}) || n.Created.IsZero() {
			t.Error(n, err)
		}
		if n, err = namespace.Update(tx, long, nil, "labels.a.b/c"); err != nil || len(n.Labels) != 0 {
			t.Error(n, err)
		}
		if err := blob(tx, "by-blob", "b"); err != nil {
			return err
		}
		if got := list(t, tx); got != "by-blob "+long {
			t.Errorf("namespaces %s", got)
		}
		_, err = namespace.Create(tx, "by-blob", nil)
		if !errdefs.IsAlreadyExists(err) {
			t.Error(err)
		}
		return nil
	})
}

func TestCreateAndRemove(t *testing.T) {
	d := update(t, func(tx *state.Tx) error {
		n, err := namespace.Create(tx, "one", map[string]string{namespace.LabelRuntime: "io.containerd.runc.v2"})
		if err != nil || n.Labels[namespace.LabelRuntime] == "" {
			t.Error(n, err)
		}
		if _, err := namespace.Create(tx, "one", nil); !errdefs.IsAlreadyExists(err) {
			t.Error(err)
		}
		for name, labels := range map[string]map[string]string{"": nil, "a/b": nil, "..": nil, strings.Repeat("x", 77): nil, "ok": {"": "x"}} {
			if _, err := namespace.Create(tx, name, labels); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", name, err)
			}
		}
		for _, text := range []string{"a", "b"} {
			if err := blob(tx, "one", text); err != nil {
				return err
			}
		}
		if _, err := lease.Create(tx, "one", "l", nil); err != nil {
			return err
		}
		if err := namespace.Remove(tx, "one"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "2 blobs") || strings.Contains(err.Error(), "lease") {
			t.Error(err)
		}
		for _, text := range []string{"a", "b"} {
			if err := content.Remove(tx, "one", digest.FromString(text)); err != nil {
				return err
			}
		}
		if err := namespace.Remove(tx, "one"); err != nil {
			t.Error(err)
		}
		if err := namespace.Remove(tx, "one"); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
		if got := list(t, tx); got != "" {
			t.Errorf("namespaces %s", got)
		}
		return nil
	})
	var topics []string
	for e, err := range d.Journal().Read(ctx, 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(e.Topic, "/namespaces") {
			topics = append(topics, e.Namespace+e.Topic)
		}
	}
	if got := strings.Join(topics, " "); got != "one/namespaces/create one/namespaces/delete" {
		t.Errorf("events %s", got)
	}
}
