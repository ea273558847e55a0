// SPDX-License-Identifier: Apache-2.0

package native

import (
	"maps"
	"strings"
	"time"

	"github.com/containerd/containerd/api/types/transfer"

	"ctrd.dev/ctrd/lib/archive"
	leases "ctrd.dev/ctrd/lib/lease"
)

// labelParent names the image with which an expired one stays.
const labelParent = "containerd.io/gc.bref.image"

// names says what the images of an archive are called that go to an image store, as containerd's store does
// (core/transfer/image/imagestore.go): the archive's index has the name of the store, and each prefix makes a name of what
// the archive says of an image.
type names struct{ to *transfer.ImageStore }

// of gives the names of an image; none if it is to be stored as a part of others alone.
func (n names) of(it archive.Item) (all []archive.Name) {
	if it.Index && n.to.Name != "" {
		all = append(all, archive.Name{Name: n.to.Name, Labels: n.to.Labels})
	}
	for _, r := range n.to.ExtraReferences {
		switch {
		case it.Index && !r.IsPrefix:
			all = append(all, n.also(r.Name))
		case it.Index && r.AddDigest:
			all = append(all, n.also(r.Name+"@"+it.Target.Digest.String()))
		case !it.Index && r.IsPrefix:
			all = append(all, n.prefixed(r, it)...)
		}
	}
	return all
}

// prefixed gives the names that a prefix leads to.
func (n names) prefixed(r *transfer.ImageReference, it archive.Item) (all []archive.Name) {
	for _, name := range it.Names {
		if it.Whole || r.AllowOverwrite || below(name, r.Name) {
			all = append(all, n.also(name))
		}
	}
	if it.Tag != "" {
		all = append(all, n.also(r.Name+":"+it.Tag))
	}
	if r.AddDigest && (len(all) == 0 || !r.SkipNamedDigest) {
		all = append(all, n.also(r.Name+"@"+it.Target.Digest.String()))
	}
	return all
}

// below tells whether a name is the prefix, or one in it.
func below(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && (rest == "" || strings.ContainsAny(rest[:1], "/:@"))
}

// also is a name beside that of the store: when that is removed, it goes with the next collection.
func (n names) also(name string) archive.Name {
	labels := n.to.Labels
	if n.to.Name != "" {
		labels = maps.Clone(labels)
		if labels == nil {
			labels = map[string]string{}
		}
		labels[labelParent] = n.to.Name
		labels[leases.LabelExpire] = time.Now().UTC().Format(time.RFC3339)
	}
	return archive.Name{Name: name, Labels: labels}
}
