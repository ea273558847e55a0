// SPDX-License-Identifier: Apache-2.0

package prune

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/state"
)

func TestImages(t *testing.T) {
	base := t.TempDir()
	d, err := state.Open(state.Config{Root: filepath.Join(base, "root"), State: filepath.Join(base, "state"), Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	at := func(text string) digest.Digest { return digest.FromString(text) }
	err = d.Update(t.Context(), nil, func(tx *state.Tx) error {
		for name, target := range map[string]string{
			"docker.io/library/used:1": "used", "docker.io/library/same:1": "used", "docker.io/library/free:1": "free",
			"docker.io/library/kept:1": "kept", "docker.io/library/x@" + at("bare").String(): "bare",
		} {
			img := image.Image{Name: name, Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: at(target), Size: 1}}
			if target == "kept" {
				img.Labels = map[string]string{"keep": "yes"}
			}
			if err := image.Put(tx, "ns", img); err != nil {
				return err
			}
		}
		_, err := container.Create(tx, "ns", container.Container{ID: "c", Image: "docker.io/library/used:1"}, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	unkept, err := filter.Parse("labels.keep!=yes")
	if err != nil {
		t.Fatal(err)
	}
	prune := func(opt Options) string {
		t.Helper()
		opt.Namespace = "ns"
		r, err := Images(t.Context(), d, opt)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, img := range r.Images {
			name, _, _ := strings.Cut(image.Familiar(img.Name), "@")
			names = append(names, name)
		}
		return strings.Join(names, " ")
	}
	for _, c := range []struct {
		opt  Options
		want string
	}{
		{Options{DryRun: true}, "x"},
		{Options{DryRun: true, All: true}, "free:1 kept:1 x"},
		{Options{DryRun: true, All: true, Filter: unkept}, "free:1 x"},
		{Options{All: true, Until: time.Now().Add(-time.Hour)}, ""},
		{Options{}, "x"},
		{Options{}, ""},
		{Options{All: true, Filter: unkept}, "free:1"},
		{Options{All: true}, "kept:1"},
		{Options{All: true}, ""},
	} {
		if got := prune(c.opt); got != c.want {
			t.Errorf("%+v: %q, want %q", c.opt, got, c.want)
		}
	}
}
