// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/state"
)

// Create is Put for a name that has no image, and gives the record. One that has is errdefs.ErrAlreadyExists.
func Create(tx *state.Tx, ns string, img Image) (Image, error) {
	if _, err := Get(tx, ns, img.Name); err == nil {
		return img, fmt.Errorf("image %q in namespace %q: %w", img.Name, ns, errdefs.ErrAlreadyExists)
	} else if !errdefs.IsNotFound(err) {
		return img, err
	}
	if err := Put(tx, ns, img); err != nil {
		return img, err
	}
	return Get(tx, ns, img.Name)
}

// Update changes an image by field masks and gives the record: "target"; "labels" and "labels.KEY" as label.Mask has
// them; "annotations" and "annotations.KEY", which are those of the target. No path replaces all. An image that there is
// not is errdefs.ErrNotFound, another path errdefs.ErrInvalidArgument.
func Update(tx *state.Tx, ns string, given Image, paths ...string) (Image, error) {
	img, err := Get(tx, ns, given.Name)
	if err != nil {
		return img, err
	}
	if len(paths) == 0 {
		paths = []string{"target", "labels"}
	}
	for _, path := range paths {
		field, key, one := strings.Cut(path, ".")
		switch {
		case path == "target":
			img.Target = given.Target
		case field == "labels":
			if img.Labels, err = label.Mask(img.Labels, given.Labels, path); err != nil {
				return img, err
			}
		case field == "annotations" && one:
			img.Target.Annotations = maps.Clone(img.Target.Annotations)
			if img.Target.Annotations == nil {
				img.Target.Annotations = map[string]string{}
			}
			if value := given.Target.Annotations[key]; value != "" {
				img.Target.Annotations[key] = value
			} else {
				delete(img.Target.Annotations, key)
			}
		case path == "annotations":
			img.Target.Annotations = given.Target.Annotations
		default:
			return img, fmt.Errorf("image %q: field %q cannot be changed: %w", given.Name, path, errdefs.ErrInvalidArgument)
		}
	}
	if err := Put(tx, ns, img); err != nil {
		return img, err
	}
	return Get(tx, ns, img.Name)
}
