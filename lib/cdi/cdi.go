// SPDX-License-Identifier: Apache-2.0

// Package cdi gives containers the devices that specs of the Container Device Interface describe: files in directories of the
// host, by vendors, that say which nodes, mounts, variables and hooks a device is made of.
package cdi

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// Dirs are where specs are, unless somebody says otherwise. Of two specs that describe one device, that in the later directory
// counts.
func Dirs() []string { return slices.Clone(cdi.DefaultSpecDirs) }

// IsName tells whether a text is the name of a device: VENDOR/CLASS=NAME.
func IsName(text string) bool { return parser.IsQualifiedName(text) }

// Annotated gives the devices that annotations ask for, whose keys begin with cdi.k8s.io/, in the order of the keys.
func Annotated(annotations map[string]string) (names []string, err error) {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(key, cdi.AnnotationPrefix) {
			continue
		}
		for name := range strings.SplitSeq(annotations[key], ",") {
			if !IsName(name) {
				return nil, fmt.Errorf("annotation %s: %.100q is no CDI device, such as vendor.com/class=name: %w", key, name, errdefs.ErrInvalidArgument)
			}
			names = append(names, name)
		}
	}
	return names, nil
}

// Inject changes a spec as the devices want it; each once. A device of which no directory has a spec, or of which two files of one
// directory have one, is errdefs.ErrNotFound, and the error has what is wrong with the files of its vendor.
func Inject(s *specs.Spec, dirs, names []string) error {
	var all []string
	for _, name := range names {
		if !IsName(name) {
			return fmt.Errorf("%.100q is no CDI device, such as vendor.com/class=name: %w", name, errdefs.ErrInvalidArgument)
		}
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	if len(all) == 0 {
		return nil
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return err
	}
	missing, err := cache.InjectDevices(s, all...)
	if len(missing) > 0 {
		err := fmt.Errorf("CDI device %s: no spec in %s describes it: %w", strings.Join(missing, ", "), strings.Join(dirs, ", "), errdefs.ErrNotFound)
		return errors.Join(append([]error{err}, broken(cache)...)...)
	}
	if err != nil {
		return fmt.Errorf("CDI device %s: %w: %w", strings.Join(all, ", "), err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// broken tells what is wrong with spec files.
func broken(cache *cdi.Cache) (all []error) {
	errs := cache.GetErrors()
	for _, file := range slices.Sorted(maps.Keys(errs)) {
		all = append(all, fmt.Errorf("%s: %w", file, errors.Join(errs[file]...)))
	}
	return all
}
