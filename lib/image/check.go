// SPDX-License-Identifier: Apache-2.0

package image

import (
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// Check says how much of an image for one platform is here.
type Check struct {
	Platform string             `json:"platform"` // empty: what has none, or whose configuration is not here
	Manifest ocispec.Descriptor `json:"manifest"`
	Size     int64              `json:"size"`    // of manifest, configuration and layers, bytes
	Present  int64              `json:"present"` // of these what is here, bytes
	Absent   []digest.Digest    `json:"absent,omitempty"`
	Complete bool               `json:"complete"` // all is here, and its layers, if they are unpacked, can be used
	Unpacked bool               `json:"unpacked"` // the snapshots of its layers are here
}

// Checks tells of each manifest of an image that is here how much of it is. A manifest that is not here itself is
// not told of, unless it is the image: images of one platform are the usual case.
func Checks(tx *state.Tx, ns string, target ocispec.Descriptor) (all []Check, err error) {
	parts, err := Parts(tx, ns, target)
	if err != nil {
		return nil, err
	}
	for n, p := range parts {
		if p.Role != RoleManifest || !p.Here && p.Depth > 0 {
			continue
		}
		c := Check{Platform: p.Platform, Manifest: p.Descriptor}
		var top digest.Digest
		for i, q := range parts[n:] {
			if i > 0 && q.Depth <= p.Depth {
				break
			}
			c.Size += q.Descriptor.Size
			if q.Here {
				c.Present += q.Descriptor.Size
			} else {
				c.Absent = append(c.Absent, q.Descriptor.Digest)
			}
			if q.Chain != "" {
				top = q.Chain
			}
		}
		c.Complete = len(c.Absent) == 0
		if top != "" {
			var damaged bool
			if c.Unpacked, damaged, err = isUnpacked(tx, ns, top); err != nil {
				return nil, err
			}
			c.Complete = c.Complete && !damaged
		}
		all = append(all, c)
	}
	return all, nil
}

// isUnpacked tells whether any snapshotter has the layers, and if none has, whether one had them: by its records, whose trees are
// gone or are others. What only its contents can prove counts as it is recorded: a use compares them.
func isUnpacked(tx *state.Tx, ns string, chain digest.Digest) (unpacked, damaged bool, err error) {
	for _, sn := range snapshot.Snapshotters() {
		s, err := sn.Get(tx, ns, chain.String())
		if errdefs.IsNotFound(err) || err == nil && s.Kind != snapshot.Committed {
			continue
		}
		if err == nil {
			err = hasLayers(tx, sn, ns, chain)
		}
		if err == nil {
			return true, false, nil
		}
		if !snapshot.Gone(err) {
			return false, false, err
		}
		damaged = true
	}
	return false, damaged, nil
}

// hasLayers looks at the tree of each layer.
func hasLayers(tx *state.Tx, sn *snapshot.Snapshotter, ns string, top digest.Digest) error {
	layers, err := sn.Chain(tx, ns, top.String())
	if err != nil {
		return err
	}
	for _, s := range layers {
		if err := sn.Check(tx.Dir(), s); err != nil && !snapshot.Unproven(err) {
			return err
		}
	}
	return nil
}

// Usage is what a name's image occupies in a namespace, in bytes. Blobs and snapshots that several images have count
// for each of them.
type Usage struct {
	Name      string `json:"name"`
	Content   int64  `json:"content"`   // of blobs
	Snapshots int64  `json:"snapshots"` // of unpacked layers on the disk
	Unique    int64  `json:"unique"`    // of both what no other image has; names of one image are one
}

// Total is all that the image occupies.
func (u Usage) Total() int64 { return u.Content + u.Snapshots }

// Usages measures all images of a namespace, by name. One that cannot be read counts as empty.
func Usages(tx *state.Tx, ns string) (all []Usage, err error) {
	type thing struct {
		size     int64
		snapshot bool
	}
	has := map[digest.Digest]map[string]thing{} // by target
	users := map[string]int{}
	var names []Image
	for img, err := range All(tx, ns) {
		if errdefs.IsDataLoss(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		names = append(names, img)
		if has[img.Target.Digest] != nil {
			continue
		}
		things := map[string]thing{}
		has[img.Target.Digest] = things
		parts, err := Parts(tx, ns, img.Target)
		if err != nil {
			continue
		}
		for _, p := range parts {
			if p.Here {
				things[p.Descriptor.Digest.String()] = thing{size: p.Descriptor.Size}
			}
			for _, sn := range snapshot.Snapshotters() {
				if s, err := sn.Get(tx, ns, p.Chain.String()); p.Chain != "" && err == nil {
					things[sn.Name()+" "+s.Key] = thing{s.Size, true}
				}
			}
		}
		for key := range things {
			users[key]++
		}
	}
	for _, img := range names {
		u := Usage{Name: img.Name}
		for key, t := range has[img.Target.Digest] {
			if t.snapshot {
				u.Snapshots += t.size
			} else {
				u.Content += t.size
			}
			if users[key] == 1 {
				u.Unique += t.size
			}
		}
		all = append(all, u)
	}
	return all, nil
}
