// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/gc"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// ImportOptions says what of an archive is taken, and what it is called.
type ImportOptions struct {
	Namespace string
	Name      string // of the one image of the archive; empty: what the archive says
	IndexName string // records the archive's index.json as one more image
	BaseName  string // repository of images that have a tag or nothing; empty: DefaultBase
	Digests   bool   // records each image by its repository and digest as well
	// Names, when set, says what each image is called, in place of the options above. It is asked for the archive's own
	// index.json first. An image without a name is not recorded.
	Names func(Item) []Name
	// Platforms are those of each image that are taken and unpacked, and must be there. None: this machine's; of an
	// image that has not that, all there is, and nothing is unpacked.
	Platforms []ocispec.Platform
	// AllPlatforms takes and unpacks all that is there.
	AllPlatforms bool
	NoUnpack     bool
	// Snapshotter takes the layers; nil: snapshot.Overlay.
	Snapshotter *snapshot.Snapshotter
	// Progress, when set, hears of each blob. It is called by one goroutine at a time.
	Progress func(progress.Event)
	// Warn, when set, is told what the user should know and the import does not fail for.
	Warn func(string)
}

// Import brings in the images of an archive, a tar that may be compressed with gzip, zstd or bzip2. r is read once,
// to its end. All images are recorded in one commit. An archive that cannot be read is a [FormatError], a layer that
// is not what its image says a [pull.ContentError]; after an error nothing new is visible.
func Import(ctx context.Context, d *state.Dir, r io.Reader, opt ImportOptions) ([]image.Image, error) {
	return imports(ctx, d, entries(r), opt)
}

// ImportDir is Import of a directory: an OCI layout, or an archive that was unpacked.
func ImportDir(ctx context.Context, d *state.Dir, dir string, opt ImportOptions) ([]image.Image, error) {
	return imports(ctx, d, files(dir), opt)
}

func imports(ctx context.Context, d *state.Dir, all iter.Seq2[entry, error], opt ImportOptions) (done []image.Image, err error) {
	work, err := pull.NewLocal(d, pull.Options{
		Namespace: opt.Namespace, Snapshotter: opt.Snapshotter, Patient: true, Progress: opt.Progress, Warn: opt.Warn,
	})
	if err != nil {
		return nil, err
	}
	in := newIntake(d, opt.Namespace, work, progress.New("archive", opt.Progress))
	done, spare, err := in.run(ctx, all, opt)
	err = errors.Join(err, work.Close())
	if err != nil || spare {
		// What was stored and not recorded would take its room until the next collection.
		if _, bad := gc.Collect(context.WithoutCancel(ctx), d); bad != nil && opt.Warn != nil {
			opt.Warn(bad.Error())
		}
	}
	return done, err
}

// run tells, beside the images, whether something was stored that none of them needs.
func (in *intake) run(ctx context.Context, all iter.Seq2[entry, error], opt ImportOptions) (done []image.Image, spare bool, err error) {
	if err := in.all(ctx, all); err != nil {
		return nil, false, err
	}
	items, err := in.items(ctx, opt)
	if err != nil {
		return nil, false, err
	}
	images, err := in.name(ctx, items, opt)
	if err != nil {
		return nil, false, err
	}
	g := newGatherer(in, opt.Warn)
	g.asIs, g.most = opt.NoUnpack, maxDocuments
	for _, img := range images {
		if err := choose(ctx, g, img, opt); err != nil {
			return nil, false, err
		}
	}
	if !opt.NoUnpack {
		if err := in.unpack(ctx, g.images); err != nil {
			return nil, false, err
		}
	}
	for dg := range in.size {
		_, used := g.blobs[dg]
		spare = spare || !used
	}
	crash.Point("archive.unpacked")
	err = in.work.Record(ctx, func(tx *state.Tx) error {
		if err := g.blobs.record(tx, opt.Namespace); err != nil {
			return err
		}
		done, err = putAll(tx, opt.Namespace, images)
		return err
	})
	crash.Point("archive.recorded")
	return done, spare, err
}

// name gives the images with the names under which they are recorded.
func (in *intake) name(ctx context.Context, items []item, opt ImportOptions) ([]named, error) {
	if opt.Names != nil {
		return in.called(ctx, items, opt.Names)
	}
	images, err := nameAll(items, opt)
	if err != nil || opt.IndexName == "" {
		return images, err
	}
	whole, err := in.wholeIndex(ctx, opt.IndexName)
	return append(images, whole), err
}

// called is name by a function. The archive's index is stored if it gets a name.
func (in *intake) called(ctx context.Context, items []item, names func(Item) []Name) (all []named, err error) {
	if data, ok := in.documents[indexFile]; ok {
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
		for _, n := range names(Item{Index: true, Target: desc}) {
			all = append(all, named{n.Name, desc, n.Labels})
		}
		if len(all) > 0 {
			if _, err := in.put(ctx, data); err != nil {
				return nil, err
			}
		}
	}
	for _, it := range items {
		for _, n := range names(Item{Names: it.names, Whole: it.whole, Tag: it.tag, Target: it.target}) {
			all = append(all, named{n.Name, it.target, n.Labels})
		}
	}
	return all, nil
}

// choose takes of an image what the options say. Platforms that they do not name may be missing.
func choose(ctx context.Context, g *gatherer, img named, opt ImportOptions) error {
	g.lack = ""
	err := chosen(ctx, g, img, opt)
	switch {
	case err == nil:
		return nil
	case isFormat(err):
	case errdefs.IsNotFound(err), errdefs.IsFailedPrecondition(err), errdefs.IsInvalidArgument(err):
		err = &FormatError{err}
	}
	return fmt.Errorf("%s: %w", image.Familiar(img.name), err)
}

func chosen(ctx context.Context, g *gatherer, img named, opt ImportOptions) error {
	for _, p := range opt.Platforms {
		if err := g.platform(ctx, img, p); err != nil {
			return err
		}
	}
	if len(opt.Platforms) > 0 {
		return nil
	}
	var foreign error
	if !opt.AllPlatforms {
		host, err := image.ParsePlatform("")
		if err != nil {
			return err
		}
		foreign = g.platform(ctx, img, host)
		if !errdefs.IsNotFound(foreign) && !errdefs.IsNotImplemented(foreign) {
			return foreign
		}
	}
	before := len(g.images)
	n, err := g.whole(ctx, img)
	switch {
	case err != nil:
		return err
	case n == 0:
		return cmp.Or(g.lacking(), foreign, malformed("the archive has nothing of it"))
	case foreign != nil:
		// As docker load takes it: what there is, although it cannot run here.
		g.images = g.images[:before]
		g.tell(img, fmt.Sprintf("is not unpacked: %v", foreign))
	case len(g.images) == before && !opt.NoUnpack:
		g.tell(img, "has nothing to unpack")
	}
	return nil
}

// unpack makes layers of each image, once.
func (in *intake) unpack(ctx context.Context, all []found) error {
	done := map[digest.Digest]bool{}
	for _, m := range all {
		if done[m.Descriptor.Digest] {
			continue
		}
		done[m.Descriptor.Digest] = true
		if err := in.work.Unpack(ctx, m.name, m.Manifest); err != nil {
			return fmt.Errorf("%s: %w", image.Familiar(m.name), err)
		}
	}
	return nil
}

// putAll records names. What an API or a user attached to one stays.
func putAll(tx *state.Tx, ns string, images []named) (done []image.Image, err error) {
	for _, img := range images {
		old, err := image.Get(tx, ns, img.name)
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
			return nil, err
		}
		if img.labels == nil {
			img.labels = old.Labels
		}
		if err != nil || old.Target.Digest != img.target.Digest || !maps.Equal(old.Labels, img.labels) {
			target := ocispec.Descriptor{MediaType: img.target.MediaType, Digest: img.target.Digest, Size: img.target.Size}
			if err := image.Put(tx, ns, image.Image{Name: img.name, Target: target, Labels: img.labels}); err != nil {
				return nil, err
			}
			if old, err = image.Get(tx, ns, img.name); err != nil {
				return nil, err
			}
		}
		done = append(done, old)
	}
	return done, nil
}

// items finds the images of the archive in whichever format it has.
func (in *intake) items(ctx context.Context, opt ImportOptions) (all []item, err error) {
	index, isLayout := in.documents[indexFile]
	manifest, isSaved := in.documents[manifestFile]
	var docker []item
	if isSaved {
		saved, err := parseSaved(manifest)
		if err != nil {
			return nil, err
		}
		if isLayout {
			docker = in.savedNames(saved)
		} else if docker, err = in.convert(ctx, saved); err != nil {
			return nil, err
		}
		all = docker
	}
	if isLayout {
		if all, err = parseLayout(index, in.documents[layoutFile]); err != nil {
			return nil, err
		}
		if err := in.nameBy(ctx, all, docker); err != nil {
			return nil, err
		}
	}
	switch {
	case !isLayout && !isSaved && in.documents[layoutFile] != nil:
		return nil, malformed("it has %s and no %s", layoutFile, indexFile)
	case !isLayout && !isSaved && in.files[repositoriesFile] != "":
		return nil, &FormatError{fmt.Errorf("it has %s and no %s, as docker before version 1.10 wrote it: %w", repositoriesFile, manifestFile, errdefs.ErrNotImplemented)}
	case !isLayout && !isSaved:
		return nil, noImages()
	case len(all) == 0 && opt.IndexName == "":
		return nil, malformed("the archive has no image")
	}
	return all, nil
}

// wholeIndex makes an image of the archive's own index.
func (in *intake) wholeIndex(ctx context.Context, name string) (named, error) {
	ref, err := image.Parse(name)
	if err != nil {
		return named{}, err
	}
	data, ok := in.documents[indexFile]
	if !ok {
		return named{}, malformed("it has no %s, which could be called %s", indexFile, ref.Familiar())
	}
	desc, err := in.put(ctx, data)
	desc.MediaType = ocispec.MediaTypeImageIndex
	return named{name: ref.String(), target: desc}, err
}

// put stores a document.
func (in *intake) put(ctx context.Context, data []byte) (ocispec.Descriptor, error) {
	desc, err := in.work.StoreBytes(ctx, "", data)
	if err == nil {
		in.size[desc.Digest] = desc.Size
	}
	return desc, err
}

// putJSON stores a document that is made here.
func (in *intake) putJSON(ctx context.Context, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return in.put(ctx, data)
}
