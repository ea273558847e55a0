// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/progress"
	"ctrd.dev/ctrd/lib/state"
)

// ExportOptions says what of images is written, and how.
type ExportOptions struct {
	Namespace string
	// Platforms are those of each image that are written, and must be here. None: all that are here.
	Platforms []ocispec.Platform
	// AllPlatforms makes it an error that something which an index names is not here.
	AllPlatforms bool
	// NoManifest leaves out manifest.json, by which docker load and others find images in an OCI layout.
	NoManifest bool
	// Time is that of all files; the zero value: 1970.
	Time time.Time
	// Progress, when set, hears of each blob. It is called by one goroutine at a time.
	Progress func(progress.Event)
	// Warn, when set, is told what the user should know and the export does not fail for.
	Warn func(string)
}

// Export writes images, named as [image.Find] takes them, as an OCI image layout in a tar, which docker load
// takes too. The same images give the same bytes. Each blob is checked against its digest on the way; one that is
// damaged is errdefs.ErrDataLoss, one that is not here errdefs.ErrNotFound. After an error w has a part of the archive.
func Export(ctx context.Context, d *state.Dir, w io.Writer, names []string, opt ExportOptions) error {
	return export(ctx, d, names, opt, func(s *shipment) error {
		return writeTar(w, opt.Time, func(t *tarball) error { return s.layout(ctx, t) })
	})
}

// ExportDir is Export into a new directory, which appears when all is in it and durable.
func ExportDir(ctx context.Context, d *state.Dir, dir string, names []string, opt ExportOptions) error {
	return export(ctx, d, names, opt, func(s *shipment) error {
		return newDir(dir, opt.Time, func(t *tree) error { return s.layout(ctx, t) })
	})
}

// ExportDocker writes images in the format of docker save before version 25, which knows neither platforms nor
// indexes: of each image one platform, that of opt, or this machine's, or the only one. Layers are not compressed.
func ExportDocker(ctx context.Context, d *state.Dir, w io.Writer, names []string, opt ExportOptions) error {
	if len(opt.Platforms) > 1 || opt.AllPlatforms {
		return fmt.Errorf("a docker-archive has one platform of each image: %w", errdefs.ErrInvalidArgument)
	}
	return export(ctx, d, names, opt, func(s *shipment) error {
		return writeTar(w, opt.Time, func(t *tarball) error { return s.docker(ctx, t) })
	})
}

// export finds the images and calls write while nothing removes them.
func export(ctx context.Context, d *state.Dir, names []string, opt ExportOptions, write func(*shipment) error) (err error) {
	l, err := lease.Take(d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	s := &shipment{d: d, opt: opt, lease: l, report: progress.New("archive", opt.Progress)}
	s.gatherer = newGatherer(s, opt.Warn)
	seen := map[string]bool{}
	for _, name := range names {
		var img image.Image
		err := d.View(ctx, func(tx *state.Tx) (err error) {
			img, err = image.Find(tx, opt.Namespace, name)
			return err
		})
		if err != nil {
			return err
		}
		if seen[img.Name] {
			continue
		}
		seen[img.Name] = true
		if err := s.add(ctx, named{name: img.Name, target: img.Target}); err != nil {
			return fmt.Errorf("%s: %w", image.Familiar(img.Name), err)
		}
	}
	return write(s)
}

// shipment is what an archive will have.
type shipment struct {
	*gatherer
	d      *state.Dir
	opt    ExportOptions
	lease  *lease.Lease
	report *progress.Reporter
	all    []named
}

// may puts a blob on the lease, and looks.
func (s *shipment) may(ctx context.Context, desc ocispec.Descriptor) (ok bool, err error) {
	if err := s.lease.Hold(ctx, nil, lease.Content, desc.Digest.String()); err != nil {
		return false, err
	}
	err = s.d.View(ctx, func(tx *state.Tx) error {
		_, err := content.Get(tx, s.opt.Namespace, desc.Digest)
		if ok = err == nil; errdefs.IsNotFound(err) {
			err = nil
		}
		return err
	})
	if !ok || err != nil {
		return false, err
	}
	_, err = os.Stat(content.Path(s.d, desc.Digest))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (s *shipment) read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	ok, err := s.may(ctx, desc)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("blob %s is not here: %w", desc.Digest, errdefs.ErrNotFound)
	}
	return content.ReadAll(s.d, desc, image.MaxManifest)
}

// add takes an image into the shipment.
func (s *shipment) add(ctx context.Context, img named) error {
	s.lack = ""
	s.all = append(s.all, img)
	for _, p := range s.opt.Platforms {
		if err := s.platform(ctx, img, p); err != nil {
			return err
		}
	}
	if len(s.opt.Platforms) > 0 {
		return nil
	}
	n, err := s.whole(ctx, img)
	switch {
	case err != nil:
		return err
	case n == 0:
		return cmp.Or(s.lacking(), fmt.Errorf("nothing of it is here: %w", errdefs.ErrNotFound))
	case s.opt.AllPlatforms:
		return s.lacking()
	}
	return nil
}

// chosen gives of each image the manifest that stands for it where only one can: this machine's, or the first.
func (s *shipment) chosen() (all []found) {
	host := platforms.Only(platforms.DefaultSpec())
	for _, img := range s.all {
		var best *found
		for i, m := range s.images {
			if m.name != img.name {
				continue
			}
			p := platforms.Normalize(m.Config.Platform)
			if best == nil || host.Match(p) && (!host.Match(best.Config.Platform) || host.Less(p, best.Config.Platform)) {
				best = &s.images[i]
			}
		}
		if best != nil {
			all = append(all, *best)
		}
	}
	return all
}
