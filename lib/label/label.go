// SPDX-License-Identifier: Apache-2.0

// Package label has the rules that containerd's API has for the labels of all its records: their bounds, and updates
// of some of them by field masks.
package label

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Max is containerd's bound on the length of a label's key and value together, in bytes.
const Max = 4096

// Root keeps the blob or snapshot that has it from being collected although nothing refers to it. As with containerd, its
// value is the time at which it was set.
const Root = "containerd.io/gc.root"

// Keep gives labels the label Root, unless they have it.
func Keep(labels map[string]string) {
	if _, ok := labels[Root]; !ok {
		labels[Root] = time.Now().UTC().Format(time.RFC3339)
	}
}

// Check refuses labels without a key and labels longer than Max.
func Check(labels map[string]string) error {
	for k, v := range labels {
		if k == "" {
			return fmt.Errorf("label without a key: %w", errdefs.ErrInvalidArgument)
		}
		if len(k)+len(v) > Max {
			return fmt.Errorf("label %.40q: key and value have %d bytes, at most %d are allowed: %w", k, len(k)+len(v), Max, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Mask gives the labels of a record after an update by field masks: "labels" replaces all by those given,
// "labels.KEY" sets one, and no path at all replaces all. KEY is all behind the first point and may have points and
// slashes. A label whose value is empty is removed. Any other path is errdefs.ErrInvalidArgument, and so are labels
// that Check refuses.
func Mask(old, given map[string]string, paths ...string) (map[string]string, error) {
	labels := maps.Clone(old)
	if labels == nil {
		labels = map[string]string{}
	}
	if len(paths) == 0 {
		paths = []string{"labels"}
	}
	for _, path := range paths {
		key, one := strings.CutPrefix(path, "labels.")
		switch {
		case one:
			labels[key] = given[key]
		case path == "labels":
			labels = maps.Clone(given)
			if labels == nil {
				labels = map[string]string{}
			}
		default:
			return nil, fmt.Errorf("field %q: only labels and labels.KEY can be changed: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	maps.DeleteFunc(labels, func(_, v string) bool { return v == "" })
	return labels, Check(labels)
}

// Set gives the labels of a record after some are set; an empty value removes the label.
func Set(old, given map[string]string) (map[string]string, error) {
	paths := make([]string, 0, len(given))
	for k := range given {
		paths = append(paths, "labels."+k)
	}
	if len(paths) == 0 {
		return maps.Clone(old), nil
	}
	return Mask(old, given, paths...)
}
