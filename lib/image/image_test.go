// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/state"
)

var ctx = context.Background()

func openDir(t *testing.T) *state.Dir {
	t.Helper()
	base := t.TempDir()
	d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "state")})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func target(hex string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Size: 10, Digest: digest.Digest("sha256:" + hex + strings.Repeat("0", 64-len(hex)))}
}

func put(t *testing.T, d *state.Dir, images ...Image) {
	t.Helper()
	err := d.Update(ctx, nil, func(tx *state.Tx) error {
		for _, img := range images {
			if err := Put(tx, "ns", img); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	d := openDir(t)
	put(t, d,
		Image{Name: "docker.io/library/redis:7", Target: target("abcd1")},
		Image{Name: "docker.io/library/redis:alpine", Target: target("abcd2")},
		Image{Name: "quay.io/x/y:1", Target: target("abcd1")},
		Image{Name: "not a reference", Target: target("ffff")})
	d.View(ctx, func(tx *state.Tx) error {
		for query, want := range map[string]string{
			"docker.io/library/redis:7": "docker.io/library/redis:7", "redis:7": "docker.io/library/redis:7", "quay.io/x/y:1": "quay.io/x/y:1",
			"not a reference": "not a reference", target("abcd2").Digest.String(): "docker.io/library/redis:alpine",
			"redis:7@" + target("abcd1").Digest.String(): "docker.io/library/redis:7", "redis@" + target("abcd2").Digest.String(): "docker.io/library/redis:alpine",
			"redis:7@" + target("abcd2").Digest.String(): "docker.io/library/redis:alpine",
			"abcd1": "docker.io/library/redis:7", "sha256:abcd2": "docker.io/library/redis:alpine", "ffff": "not a reference",
		} {
			if img, err := Find(tx, "ns", query); err != nil || img.Name != want {
				t.Errorf("%q: %q, %v", query, img.Name, err)
			}
		}
		for query, want := range map[string]string{"redis": "redis:7, redis:alpine", "redis:8": "redis:alpine", "nothing": `"nothing"`, "sha256": "", "": "", "f": `"f"`, "fff": "", "sha256:": "", "sha256:fff": ""} {
			if _, err := Find(tx, "ns", query); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v", query, err)
			}
		}
		if _, err := Find(tx, "ns", "redis@"+target("ffff").Digest.String()); !errdefs.IsNotFound(err) {
			t.Errorf("another repository's digest: %v", err)
		}
		if _, err := FindAll(tx, "ns", "abcd1", false); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "quay.io/x/y:1, redis:7") {
			t.Errorf("several names of a digest: %v", err)
		}
		if all, err := FindAll(tx, "ns", "redis:7", false); err != nil || len(all) != 1 {
			t.Errorf("one of several names: %v, %v", all, err)
		}
		if all, err := FindAll(tx, "ns", "abcd1", true); err != nil || len(all) != 2 {
			t.Errorf("all names of a digest: %v, %v", all, err)
		}
		if _, err := Find(tx, "ns", "abcd"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "redis:7, redis:alpine") {
			t.Errorf("ambiguous: %v", err)
		}
		if _, err := Find(tx, "other", "redis:7"); !errdefs.IsNotFound(err) {
			t.Errorf("another namespace's image is visible: %v", err)
		}
		return nil
	})
}

func TestRecords(t *testing.T) {
	d := openDir(t)
	put(t, d, Image{Name: "a", Target: target("1")})
	var first Image
	d.View(ctx, func(tx *state.Tx) (err error) { first, err = Get(tx, "ns", "a"); return err })
	put(t, d, Image{Name: "a", Target: target("2"), Labels: map[string]string{"k": "v"}})
	err := d.Update(ctx, nil, func(tx *state.Tx) error {
		img, err := Get(tx, "ns", "a")
		if err != nil || img.Target.Digest != target("2").Digest || !img.Created.Equal(first.Created) || img.Created.IsZero() {
			t.Errorf("%+v, %v", img, err)
		}
		return Remove(tx, "ns", "a")
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range []Image{{Name: "", Target: target("1")}, {Name: "a\nb", Target: target("1")}, {Name: "a"}, {Name: "a", Target: target("1"), Labels: map[string]string{"k": strings.Repeat("x", 5000)}}} {
		err := d.Update(ctx, nil, func(tx *state.Tx) error { return Put(tx, "ns", img) })
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", img.Name, err)
		}
	}
	var topics []string
	for e, err := range d.Journal().Read(ctx, 0, false) {
		if err != nil {
			t.Fatal(err)
		}
		topics = append(topics, e.Topic)
	}
	if got := strings.Join(topics, " "); got != "/images/create /images/update /images/delete" {
		t.Errorf("events %q", got)
	}
}

// A record that cannot be decoded is told by whoever reads it, and found by its name to be removed.
func TestDamagedRecord(t *testing.T) {
	d := openDir(t)
	const name = "docker.io/library/redis:7"
	damage := func() {
		t.Helper()
		err := d.Update(ctx, nil, func(tx *state.Tx) error { return state.Table[string]{Name: "images"}.Put(tx, "ns", name, "no record") })
		if err != nil {
			t.Fatal(err)
		}
	}
	put(t, d, Image{Name: "docker.io/library/redis:8", Target: target("8")})
	for _, query := range []string{name, "redis:7"} {
		damage()
		err := d.Update(ctx, nil, func(tx *state.Tx) error {
			if _, err := Get(tx, "ns", name); !errdefs.IsDataLoss(err) {
				t.Errorf("Get: %v", err)
			}
			failed := 0
			for _, err := range All(tx, "ns") {
				if errdefs.IsDataLoss(err) {
					failed++
				}
			}
			if failed != 1 {
				t.Errorf("All tells %d damaged records", failed)
			}
			if _, err := Find(tx, "ns", query); !errdefs.IsDataLoss(err) {
				t.Errorf("Find %q: %v", query, err)
			}
			found, err := FindAll(tx, "ns", query, false)
			if err != nil || len(found) != 1 || found[0].Name != name {
				t.Errorf("FindAll %q: %v, %v", query, found, err)
			}
			return Remove(tx, "ns", name)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Where the database cannot be read, no name stands for a record.
func TestFindAllInDamagedDatabase(t *testing.T) {
	d := openDir(t)
	put(t, d, Image{Name: "a", Target: target("1")})
	if err := os.WriteFile(d.Path("meta.db"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.View(ctx, func(tx *state.Tx) error {
		if found, err := FindAll(tx, "ns", "a", false); !errdefs.IsDataLoss(err) {
			t.Errorf("%v, %v", found, err)
		}
		return nil
	})
}
