// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/image"
)

// AnnotationName is where containerd, docker and buildkit put the whole name of an image, in index.json.
const AnnotationName = "io.containerd.image.name"

// DefaultBase is the repository of images for which neither the archive nor the caller has one.
const DefaultBase = "localhost/import"

// item is an image of an archive.
type item struct {
	names  []string // normalised; none if the archive has none
	whole  bool     // a name is from AnnotationName
	tag    string   // when that is all the archive says
	target ocispec.Descriptor
}

// Item is an image of an archive, to whoever names it.
type Item struct {
	Index  bool     // the archive's own index.json
	Names  []string // normalised; none if the archive has none
	Whole  bool     // the archive says the whole name, in AnnotationName
	Tag    string   // when that is all the archive says
	Target ocispec.Descriptor
}

// Name is what an image is to be called.
type Name struct {
	Name   string
	Labels map[string]string // nil: those that it has
}

// parseLayout reads index.json of an OCI layout: the image of each entry and its name, in order. What stands for
// the same image comes once. What is wrong is errdefs.ErrInvalidArgument, of a version that is not known
// errdefs.ErrNotImplemented.
func parseLayout(index, layout []byte) ([]item, error) {
	if layout != nil {
		var v ocispec.ImageLayout
		if err := json.Unmarshal(layout, &v); err != nil {
			return nil, malformed("%s: %v", layoutFile, err)
		}
		if v.Version != "" && !strings.HasPrefix(v.Version, "1.") {
			return nil, &FormatError{fmt.Errorf("%s: version %q: %w", layoutFile, short(v.Version), errdefs.ErrNotImplemented)}
		}
	}
	x, err := image.ParseIndex(index, ocispec.MediaTypeImageIndex)
	if err != nil {
		return nil, malformed("%s: %v", indexFile, err)
	}
	var all []item
	for _, desc := range x.Manifests {
		it := item{target: ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size, Platform: desc.Platform}}
		name, ref := desc.Annotations[AnnotationName], desc.Annotations[ocispec.AnnotationRefName]
		switch {
		case name != "":
			it.whole = true
			err = it.add(retagged(name, ref))
		case image.IsTag(ref):
			it.tag = ref
		case ref != "":
			err = it.add(ref)
		}
		if err != nil {
			return nil, malformed("%s: %v", indexFile, err)
		}
		all = merge(all, it)
	}
	return all, nil
}

// retagged gives a name the tag that an archive says apart from it. The two differ where a tool that knows the OCI layout
// alone, such as umoci, has made one image of another and taken its annotations along.
func retagged(name, tag string) string {
	r, err := image.Parse(name)
	if err != nil || r.Tag == "" || r.Digest != "" || !image.IsTag(tag) {
		return name
	}
	r.Tag = tag
	return r.String()
}

func (it *item) add(name string) error {
	ref, err := image.Parse(name)
	if err == nil && !slices.Contains(it.names, ref.String()) {
		it.names = append(it.names, ref.String())
	}
	return err
}

// merge adds an image, or the names of one that is there.
func merge(all []item, it item) []item {
	for i := range all {
		if all[i].target.Digest == it.target.Digest && all[i].tag == it.tag {
			all[i].whole = all[i].whole || it.whole
			for _, n := range it.names {
				if !slices.Contains(all[i].names, n) {
					all[i].names = append(all[i].names, n)
				}
			}
			return all
		}
	}
	return append(all, it)
}

// saved is an image of a docker-archive (moby's image/spec/spec.md, "Combined Image JSON + Filesystem Changeset
// Format").
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

const (
	maxSaved  = 1000 // images of a docker-archive
	maxLayers = 1024 // of one; overlayfs stacks at most 500
	maxTags   = 1000 // of one
)

// parseSaved reads manifest.json of a docker-archive. Names of files in it have not been looked for.
func parseSaved(data []byte) ([]saved, error) {
	var all []saved
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, malformed("%s: %v", manifestFile, err)
	}
	if len(all) > maxSaved {
		return nil, malformed("%s: it has %d images, at most %d are supported", manifestFile, len(all), maxSaved)
	}
	for _, s := range all {
		switch {
		case s.Config == "":
			return nil, malformed("%s: an image has no configuration", manifestFile)
		case len(s.Layers) > maxLayers, len(s.RepoTags) > maxTags:
			return nil, malformed("%s: an image has %d layers and %d names, at most %d and %d are supported", manifestFile,
				len(s.Layers), len(s.RepoTags), maxLayers, maxTags)
		}
	}
	return all, nil
}

// named is a name for a target.
type named struct {
	name   string
	target ocispec.Descriptor
	labels map[string]string // nil: those that it has
}

// nameAll gives each image the names under which it is recorded. A name for two images is an error.
func nameAll(all []item, opt ImportOptions) ([]named, error) {
	if opt.Name != "" {
		if len(all) != 1 {
			return nil, &FormatError{&severalError{len(all)}}
		}
		ref, err := image.Parse(opt.Name)
		if err != nil {
			return nil, err
		}
		all = []item{{names: []string{ref.String()}, target: all[0].target}}
	}
	base := opt.BaseName
	if base == "" {
		base = DefaultBase
	}
	ref, err := image.Parse(base)
	if err != nil {
		return nil, err
	}
	var out []named
	of := map[string]ocispec.Descriptor{}
	for _, it := range all {
		for _, name := range it.allNames(ref.Repository(), opt.Digests) {
			r, err := image.Parse(name)
			if err != nil {
				return nil, err
			}
			if r.Digest != "" && r.Digest != it.target.Digest {
				return nil, malformed("an image is called %s, and has digest %s", r, it.target.Digest)
			}
			old, again := of[name]
			if again && old.Digest != it.target.Digest {
				return nil, malformed("the archive has two images of the name %s", r.Familiar())
			}
			if of[name] = it.target; !again {
				out = append(out, named{name: name, target: it.target})
			}
		}
	}
	return out, nil
}

// allNames gives the names of an image. base is the repository where the archive names none.
func (it item) allNames(base string, digests bool) []string {
	names := slices.Clone(it.names)
	if it.tag != "" {
		names = append(names, base+":"+it.tag)
	}
	if len(names) == 0 {
		return []string{base + "@" + it.target.Digest.String()}
	}
	if digests {
		for _, n := range slices.Clone(names) {
			if r, err := image.Parse(n); err == nil {
				names = append(names, r.Repository()+"@"+it.target.Digest.String())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

type severalError struct{ n int }

// Error counts the images.
func (e *severalError) Error() string {
	return fmt.Sprintf("one name was given, and the archive has %d images", e.n)
}

// Unwrap gives the kind.
func (e *severalError) Unwrap() error { return errdefs.ErrInvalidArgument }

// Hint is what else can be done.
func (e *severalError) Hint() string {
	return "--base-name names each image after its tag or digest; --index-name records all of them as one image"
}

// isFormat tells whether an error is the archive's fault.
func isFormat(err error) bool {
	var f *FormatError
	return errors.As(err, &f)
}
