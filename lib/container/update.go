// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/errdefs"

	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/state"
)

// Update changes a container by field masks, as containerd's API has it, and gives the record: "labels" and "labels.KEY",
// "extensions" and "extensions.KEY", "image", "snapshotkey" and "spec". No path replaces all of these; then the runtime's
// name and the snapshotter must be those of the record. Any other path is errdefs.ErrInvalidArgument.
func Update(tx *state.Tx, ns string, given Container, spec []byte, paths ...string) (Container, error) {
	c, err := Get(tx, ns, given.ID)
	if err != nil {
		return c, err
	}
	if len(paths) == 0 {
		if given.Snapshotter != c.Snapshotter {
			return c, fmt.Errorf("container %q: the snapshotter cannot be changed: %w", c.ID, errdefs.ErrInvalidArgument)
		}
		if given.Runtime.Name != c.Runtime.Name {
			return c, fmt.Errorf("container %q: the runtime cannot be changed: %w", c.ID, errdefs.ErrInvalidArgument)
		}
		paths = []string{"labels", "spec", "extensions", "image", "snapshotkey"}
	}
	for _, path := range paths {
		field, key, _ := strings.Cut(path, ".")
		switch {
		case field == "labels":
			c.Labels, err = label.Mask(c.Labels, given.Labels, path)
		case path == "extensions":
			c.Extensions = given.Extensions
		case field == "extensions" && key != "":
			c.Extensions = maps.Clone(c.Extensions)
			if value, there := given.Extensions[key]; !there {
				delete(c.Extensions, key)
			} else if c.Extensions == nil {
				c.Extensions = map[string]Any{key: value}
			} else {
				c.Extensions[key] = value
			}
		case path == "image":
			c.Image = given.Image
		case path == "snapshotkey":
			c.SnapshotKey = given.SnapshotKey
		case path == "spec":
			c.SpecType = given.SpecType
			err = putRaw(tx, ns, c.ID, spec)
		default:
			err = fmt.Errorf("container %q: field %q cannot be changed: %w", c.ID, path, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return c, err
		}
	}
	if err := Put(tx, ns, c); err != nil {
		return c, err
	}
	return Get(tx, ns, c.ID)
}
