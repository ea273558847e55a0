// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/state"
)

var ctx = context.Background()

func fresh(t *testing.T) *state.Dir {
	t.Helper()
	d, err := state.Open(state.Config{Root: t.TempDir(), State: t.TempDir(), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// durable and transient run fn in a transaction of the one or the other database.
func durable(t *testing.T, d *state.Dir, fn func(*state.Tx) error) {
	t.Helper()
	if err := d.Update(ctx, nil, fn); err != nil {
		t.Fatal(err)
	}
}

func transient(t *testing.T, d *state.Dir, fn func(*state.Tx) error) {
	t.Helper()
	if err := d.UpdateRun(ctx, nil, fn); err != nil {
		t.Fatal(err)
	}
}

func view(t *testing.T, d *state.Dir, fn func(*state.Tx) error) {
	t.Helper()
	if err := d.View(ctx, fn); err != nil {
		t.Fatal(err)
	}
}

func create(id string) func(*state.Tx) error {
	return func(tx *state.Tx) error {
		_, err := container.Create(tx, "default", container.Container{ID: id}, &specs.Spec{Version: "1.2.0", Hostname: id})
		return err
	}
}

func events(t *testing.T, d *state.Dir) (all []string) {
	t.Helper()
	for e, err := range d.Journal().Read(ctx, 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e.Namespace+e.Topic+" "+e.Field("id"))
	}
	return all
}

// identifier is the pattern that containerd documents.
var identifier = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$`)

func TestCheckID(t *testing.T) {
	for id, ok := range map[string]bool{
		"a": true, "Z": true, "0": true, "web-1": true, "a.b_c-d": true, "k8s.io": true, "default": true,
		strings.Repeat("x", 76): true, strings.Repeat("x", 77): false, strings.Repeat("a-", 37) + "ab": true, strings.Repeat("a-", 38) + "a": false,
		"": false, ".": false, "..": false, "-a": false, "a-": false, "a--b": false, "a.-b": false, "a b": false, "a/b": false, "../a": false,
		"a\n": false, "\na": false, "a\x00": false, "ä": false, "a\u0301": false, "a:b": false, "@": false, "[": false, "`": false, "{": false, "/": false,
	} {
		err := container.CheckID(id)
		if ok && err != nil || !ok && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, want valid: %v", id, err, ok)
		}
	}
}

func FuzzCheckID(f *testing.F) {
	for _, s := range []string{"a", "a-b", "a--b", "", "k8s.io", "a\n", strings.Repeat("a.", 38), "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		want := identifier.MatchString(id) && len(id) <= 76
		if got := container.CheckID(id) == nil; got != want {
			t.Errorf("%q is valid: %v, containerd's pattern says %v", id, got, want)
		}
	})
}

// A record and its spec come back as they were given, from either database.
func TestCreate(t *testing.T) {
	d := fresh(t)
	c := container.Container{
		ID: "web", Image: "docker.io/library/nginx:1", Labels: map[string]string{"a": "b"}, Runtime: container.Runtime{Name: container.DefaultRuntime},
		Snapshotter: "overlayfs", SnapshotKey: "web", DefaultSeccomp: true, StopSignal: "SIGQUIT", Stdin: true, LogMaxSize: 7, LogMaxFiles: 3,
	}
	s := &specs.Spec{
		Version: "1.2.0", Hostname: "web", Root: &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{Terminal: true, Args: []string{"/bin/true", "ä\x00\n"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid"}}},
		Linux:   &specs.Linux{CgroupsPath: "/x", MaskedPaths: []string{"/proc/kcore"}},
	}
	before := time.Now().Add(-time.Second)
	uids := map[string]bool{}
	for _, ends := range []bool{false, true} {
		c.ID = fmt.Sprint("web-", ends)
		update := durable
		if ends {
			update = transient
		}
		c.Transient = !ends // what is given is not believed
		update(t, d, func(tx *state.Tx) error {
			_, err := container.Create(tx, "default", c, s)
			return err
		})
		view(t, d, func(tx *state.Tx) error {
			got, err := container.Get(tx, "default", c.ID)
			if err != nil {
				return err
			}
			if got.Created.Before(before) || !got.Updated.Equal(got.Created) || got.Transient != ends {
				t.Errorf("created %s, updated %s, transient %v", got.Created, got.Updated, got.Transient)
			}
			want := c
			if got.UID == "" || uids[got.UID] {
				t.Errorf("uid %q", got.UID)
			}
			uids[got.UID] = true
			want.Transient, want.Created, want.Updated, want.UID = ends, got.Created, got.Updated, got.UID
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			spec, err := container.Spec(tx, "default", c.ID)
			if err != nil {
				return err
			}
			if !reflect.DeepEqual(spec, s) {
				t.Errorf("got spec %+v\nwant %+v", spec, s)
			}
			if _, err := container.Get(tx, "other", c.ID); !errdefs.IsNotFound(err) {
				t.Errorf("in another namespace: %v", err)
			}
			return nil
		})
	}
	if got := events(t, d); !slices.Equal(got, []string{"default/containers/create web-false", "default/containers/create web-true"}) {
		t.Errorf("events %v", got)
	}
}

// A transient container ends with the boot, another one does not.
func TestBoot(t *testing.T) {
	d := fresh(t)
	durable(t, d, create("stays"))
	transient(t, d, create("goes"))
	if err := state.WriteFile(d.Run("boot"), []byte("another"), false); err != nil {
		t.Fatal(err)
	}
	d, err := state.Open(state.Config{Root: d.Path(), State: d.Run(), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	view(t, d, func(tx *state.Tx) error {
		if _, err := container.Get(tx, "default", "stays"); err != nil {
			t.Error(err)
		}
		if _, err := container.Get(tx, "default", "goes"); !errdefs.IsNotFound(err) {
			t.Errorf("transient container of another boot: %v", err)
		}
		return nil
	})
}

// An id is taken whichever database has it, and a refusal changes nothing.
func TestCreateTwice(t *testing.T) {
	d := fresh(t)
	durable(t, d, create("stays"))
	transient(t, d, create("goes"))
	for _, id := range []string{"stays", "goes"} {
		for name, update := range map[string]func(func(*state.Tx) error) error{
			"durable":   func(fn func(*state.Tx) error) error { return d.Update(ctx, nil, fn) },
			"transient": func(fn func(*state.Tx) error) error { return d.UpdateRun(ctx, nil, fn) },
		} {
			if err := update(create(id)); !errdefs.IsAlreadyExists(err) {
				t.Errorf("%s again as a %s one: %v", id, name, err)
			}
		}
	}
	view(t, d, func(tx *state.Tx) error {
		n := 0
		for range container.All(tx, "default") {
			n++
		}
		if n != 2 {
			t.Errorf("%d containers, want 2", n)
		}
		return nil
	})
	if err := d.Update(ctx, nil, create("not an id")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad id: %v", err)
	}
	durable(t, d, func(tx *state.Tx) error {
		_, err := container.Create(tx, "other", container.Container{ID: "stays"}, &specs.Spec{})
		return err
	})
	if got := len(events(t, d)); got != 3 {
		t.Errorf("%d events, want 3", got)
	}
}

func TestPut(t *testing.T) {
	d := fresh(t)
	durable(t, d, create("stays"))
	transient(t, d, create("goes"))
	change := func(id string) func(*state.Tx) error {
		return func(tx *state.Tx) error {
			c, err := container.Get(tx, "default", id)
			if err != nil {
				return err
			}
			c.Labels = map[string]string{"new": "label"}
			return container.Put(tx, "default", c)
		}
	}
	durable(t, d, change("stays"))
	transient(t, d, change("goes"))
	view(t, d, func(tx *state.Tx) error {
		for _, id := range []string{"stays", "goes"} {
			c, err := container.Get(tx, "default", id)
			if err != nil || c.Labels["new"] != "label" || !c.Updated.After(c.Created) {
				t.Errorf("%+v, %v", c, err)
			}
			if s, err := container.Spec(tx, "default", id); err != nil || s.Hostname != id {
				t.Errorf("spec of %s: %v", id, err)
			}
		}
		return nil
	})
	// Nothing is made, and no record gets into the other database.
	if err := d.UpdateRun(ctx, nil, change("stays")); !errdefs.IsNotFound(err) {
		t.Errorf("durable record in a transient transaction: %v", err)
	}
	if err := d.Update(ctx, nil, change("goes")); !errdefs.IsNotFound(err) {
		t.Errorf("transient record in a durable transaction: %v", err)
	}
	if err := d.Update(ctx, nil, func(tx *state.Tx) error { return container.Put(tx, "default", container.Container{ID: "none"}) }); !errdefs.IsNotFound(err) {
		t.Errorf("no record: %v", err)
	}
	want := []string{"default/containers/create stays", "default/containers/create goes", "default/containers/update stays", "default/containers/update goes"}
	if got := events(t, d); !slices.Equal(got, want) {
		t.Errorf("events %v", got)
	}
}

func TestRemove(t *testing.T) {
	d := fresh(t)
	durable(t, d, create("stays"))
	transient(t, d, create("goes"))
	remove := func(id string) func(*state.Tx) error {
		return func(tx *state.Tx) error { return container.Remove(tx, "default", id) }
	}
	if err := d.Update(ctx, nil, remove("goes")); !errdefs.IsNotFound(err) {
		t.Errorf("transient container from the durable database: %v", err)
	}
	durable(t, d, remove("stays"))
	transient(t, d, remove("goes"))
	view(t, d, func(tx *state.Tx) error {
		for _, id := range []string{"stays", "goes"} {
			if _, err := container.Get(tx, "default", id); !errdefs.IsNotFound(err) {
				t.Errorf("%s: %v", id, err)
			}
			if _, err := container.Spec(tx, "default", id); !errdefs.IsNotFound(err) {
				t.Errorf("spec of %s: %v", id, err)
			}
		}
		if names, err := container.Namespaces(tx); err != nil || len(names) != 0 {
			t.Errorf("namespaces %v, %v", names, err)
		}
		return nil
	})
	if err := d.Update(ctx, nil, remove("stays")); !errdefs.IsNotFound(err) {
		t.Errorf("again: %v", err)
	}
	if got := events(t, d); len(got) != 4 || got[2] != "default/containers/delete stays" || got[3] != "default/containers/delete goes" {
		t.Errorf("events %v", got)
	}
}

// A random id is found by its beginning, a name by itself alone.
func TestFind(t *testing.T) {
	d := fresh(t)
	for _, id := range []string{"web", "web-1", "x1", "a1b2c3d4e5f6", "abcdefabcdef", "a1"} {
		durable(t, d, create(id))
	}
	for _, id := range []string{"a1b200000000", "fa11"} {
		transient(t, d, create(id))
	}
	durable(t, d, func(tx *state.Tx) error {
		_, err := container.Create(tx, "other", container.Container{ID: "datum"}, &specs.Spec{})
		return err
	})
	view(t, d, func(tx *state.Tx) error {
		for query, want := range map[string]string{
			"web": "web", "web-1": "web-1", "a1": "a1", "a1b2c": "a1b2c3d4e5f6", "a1b20": "a1b200000000", "ab": "abcdefabcdef", "fa11": "fa11",
		} {
			if c, err := container.Find(tx, "default", query); err != nil || c.ID != want {
				t.Errorf("%q finds %q, %v; want %q", query, c.ID, err, want)
			}
		}
		for _, query := range []string{"a", "a1b2"} {
			if c, err := container.Find(tx, "default", query); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q is ambiguous: %q, %v", query, c.ID, err)
			}
		}
		if _, err := container.Find(tx, "default", "a1b2"); !strings.Contains(err.Error(), "a1b200000000 and a1b2c3d4e5f6") {
			t.Errorf("%v names no candidates", err)
		}
		for _, query := range []string{"we", "web-", "x", "fa1"} {
			if c, err := container.Find(tx, "default", query); !errdefs.IsNotFound(err) {
				t.Errorf("the beginning %q of a name finds %q, %v", query, c.ID, err)
			}
		}
		for _, query := range []string{"web-12", "eb", "datum", "%", "x1/"} {
			if c, err := container.Find(tx, "default", query); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), query) {
				t.Errorf("%q: %q, %v", query, c.ID, err)
			}
		}
		if _, err := container.Find(tx, "default", ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("empty: %v", err)
		}
		var ids []string
		for c, err := range container.All(tx, "default") {
			if err != nil {
				t.Error(err)
			}
			ids = append(ids, c.ID)
		}
		if want := []string{"a1", "a1b200000000", "a1b2c3d4e5f6", "abcdefabcdef", "fa11", "web", "web-1", "x1"}; !slices.Equal(ids, want) {
			t.Errorf("all: %v, want %v", ids, want)
		}
		if names, err := container.Namespaces(tx); err != nil || !slices.Equal(names, []string{"default", "other"}) {
			t.Errorf("namespaces %v, %v", names, err)
		}
		return nil
	})
}

// Damage is told from absence, and does not hide the others.
func TestDamage(t *testing.T) {
	d := fresh(t)
	for _, id := range []string{"a", "b", "c"} {
		durable(t, d, create(id))
	}
	durable(t, d, func(tx *state.Tx) error {
		if err := (state.Table[string]{Name: "containers"}).Put(tx, "default", "b", "no record"); err != nil {
			return err
		}
		packed := state.Table[[]byte]{Name: "container-specs"}
		whole, err := packed.Get(tx, "default", "a")
		if err != nil {
			return err
		}
		if err := packed.Put(tx, "default", "a", whole[:len(whole)/2]); err != nil {
			return err
		}
		return packed.Put(tx, "default", "c", []byte("no deflate"))
	})
	view(t, d, func(tx *state.Tx) error {
		for _, id := range []string{"a", "c"} {
			if _, err := container.Spec(tx, "default", id); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), fmt.Sprintf("%q", id)) {
				t.Errorf("spec of %s: %v", id, err)
			}
			if _, err := container.Get(tx, "default", id); err != nil {
				t.Error(err)
			}
		}
		for _, get := range []func(*state.Tx, string, string) (container.Container, error){container.Get, container.Find} {
			if _, err := get(tx, "default", "b"); !errdefs.IsDataLoss(err) {
				t.Errorf("damaged record: %v", err)
			}
		}
		var seen []string
		for c, err := range container.All(tx, "default") {
			seen = append(seen, fmt.Sprint(c.ID, errdefs.IsDataLoss(err)))
		}
		if want := []string{"afalse", "btrue", "cfalse"}; !slices.Equal(seen, want) {
			t.Errorf("all: %v, want %v", seen, want)
		}
		return nil
	})
	// What is damaged can still be removed.
	durable(t, d, func(tx *state.Tx) error { return container.Remove(tx, "default", "b") })
}

// TestSpecTooLarge: a spec that unpacks to more than one may have is told as damaged, and not cut short.
func TestSpecTooLarge(t *testing.T) {
	d := fresh(t)
	durable(t, d, create("a"))
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte(" "), 16<<20+1)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	durable(t, d, func(tx *state.Tx) error {
		return state.Table[[]byte]{Name: "container-specs"}.Put(tx, "default", "a", packed.Bytes())
	})
	view(t, d, func(tx *state.Tx) error {
		if _, err := container.RawSpec(tx, "default", "a"); !errdefs.IsDataLoss(err) {
			t.Errorf("%v", err)
		}
		return nil
	})
}
