// SPDX-License-Identifier: Apache-2.0

package native

import (
	"slices"
	"testing"

	"github.com/containerd/containerd/api/types/transfer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/archive"
	leases "ctrd.dev/ctrd/lib/lease"
)

func TestNames(t *testing.T) {
	dg := digest.FromString("x")
	index := archive.Item{Index: true, Target: ocispec.Descriptor{Digest: dg}}
	item := func(tag string, whole bool, names ...string) archive.Item {
		return archive.Item{Names: names, Whole: whole, Tag: tag, Target: ocispec.Descriptor{Digest: dg}}
	}
	prefix := func(name string, overwrite, digest, skip bool) *transfer.ImageReference {
		return &transfer.ImageReference{Name: name, IsPrefix: true, AllowOverwrite: overwrite, AddDigest: digest, SkipNamedDigest: skip}
	}
	at := "@" + dg.String()
	for _, c := range []struct {
		what  string
		store string
		refs  []*transfer.ImageReference
		it    archive.Item
		want  []string
	}{
		{"index", "r/i:1", []*transfer.ImageReference{{Name: "r/also"}, prefix("r/p", false, true, true), prefix("r/none", false, false, false)}, index, []string{"r/i:1", "r/also", "r/p" + at}},
		{"no name for an image", "r/i:1", nil, item("", false), nil},
		{"a name in the prefix", "", []*transfer.ImageReference{prefix("r/a", false, false, false)}, item("", false, "r/a:1", "r/a/b:1"), []string{"r/a:1", "r/a/b:1"}},
		{"a name beside the prefix", "", []*transfer.ImageReference{prefix("r/a", false, false, false)}, item("", false, "r/ab:1"), nil},
		{"any name", "", []*transfer.ImageReference{prefix("r/a", true, false, false)}, item("", false, "q:1"), []string{"q:1"}},
		{"a whole name", "", []*transfer.ImageReference{prefix("r/a", false, false, false)}, item("", true, "q:1"), []string{"q:1"}},
		{"a tag", "", []*transfer.ImageReference{prefix("r/a", false, true, false)}, item("2", false), []string{"r/a:2", "r/a" + at}},
		{"a name and no digest", "", []*transfer.ImageReference{prefix("r/a", false, true, true)}, item("2", false), []string{"r/a:2"}},
		{"a digest alone", "", []*transfer.ImageReference{prefix("r/a", false, true, true)}, item("", false), []string{"r/a" + at}},
	} {
		var got []string
		for _, n := range (names{&transfer.ImageStore{Name: c.store, ExtraReferences: c.refs}}).of(c.it) {
			got = append(got, n.Name)
			if beside := c.store != "" && n.Name != c.store; (n.Labels[labelParent] == c.store && n.Labels[leases.LabelExpire] != "") != beside {
				t.Errorf("%s: labels of %s: %v", c.what, n.Name, n.Labels)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}
