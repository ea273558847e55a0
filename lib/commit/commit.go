// SPDX-License-Identifier: Apache-2.0

// Package commit makes an image of a container: what the container has changed becomes a layer on top of its image's.
//
// The layer is written by lib/diff and unpacked again as that of a pull is, so that the new snapshot is what everybody
// else gets of the image. Blobs, snapshot and name are recorded in one commit, after one sync. Until then a killed
// process leaves garbage alone, and perhaps a paused container.
package commit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// Options says what the image is like.
type Options struct {
	Namespace   string
	Author      string
	Message     string
	Changes     []Change
	Compression *diff.Compression // of the layer; nil: gzip
	// NoPause lets a container run on while its files are read. What it writes meanwhile is in the image or not.
	NoPause bool
	// Time is when the image was made, and no file in the layer is younger; the zero value: now, and files keep their
	// times. With it the same container gives the same image.
	Time time.Time
	// Warn, when set, is told what the user should know and the commit does not fail for.
	Warn func(string)
}

// Container makes an image of a container, as [container.Find] takes it, and records it under name, which is moved if it
// stands for something else. A container that runs is paused while its files are read. The configuration is that of the
// container's image, which must still be here, with the changes of opt. Volumes and mounts are no part of the image.
func Container(ctx context.Context, d *state.Dir, query, name string, opt Options) (img image.Image, err error) {
	ref, err := image.Parse(name)
	if err != nil {
		return img, err
	}
	if ref.Digest != "" {
		return img, fmt.Errorf("image %q: the digest is not known before it is made: %w", name, errdefs.ErrInvalidArgument)
	}
	t, err := task.Find(ctx, d, opt.Namespace, query)
	if err != nil {
		return img, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	sn, err := snapshot.Named(t.Container.Snapshotter)
	if err != nil {
		return img, err
	}
	work, err := pull.NewLocal(d, pull.Options{Namespace: opt.Namespace, Snapshotter: sn, Patient: true, Warn: opt.Warn})
	if err != nil {
		return img, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	m := &maker{d: d, opt: opt, task: t, work: work}
	if err := m.make(ctx, ref); err != nil {
		return img, fmt.Errorf("commit of container %q: %w", t.ID(), err)
	}
	crash.Point("commit.unpacked")
	err = work.Record(ctx, func(tx *state.Tx) (err error) {
		img, err = m.record(tx, ref.String())
		return err
	})
	return img, err
}

// maker makes one image.
type maker struct {
	d    *state.Dir
	opt  Options
	task *task.Task
	work *pull.Local
	base image.Manifest
	made image.Manifest
}

func (m *maker) make(ctx context.Context, ref image.Reference) error {
	c := m.task.Container
	if c.UserNS.Private() {
		return fmt.Errorf("the owners of its files are mapped, and an image has none that are: %w", errdefs.ErrNotImplemented)
	}
	var err error
	if m.base, err = findBase(ctx, m.d, m.opt.Namespace, c); err != nil {
		return err
	}
	parts := []string{m.base.Manifest.Config.Digest.String()}
	for _, l := range m.base.Manifest.Layers {
		parts = append(parts, l.Digest.String())
	}
	if err := m.work.Hold(ctx, parts...); err != nil {
		return err
	}
	// Only now nothing removes them.
	if err := m.whole(ctx); err != nil {
		return err
	}
	res, err := m.layer(ctx)
	if err != nil {
		return err
	}
	crash.Point("commit.layer-stored")
	if err := m.document(ctx, res); err != nil {
		return err
	}
	return m.work.Unpack(ctx, ref.String(), m.made)
}

// whole checks that the blobs of the base are all here.
func (m *maker) whole(ctx context.Context) error {
	return m.d.View(ctx, func(tx *state.Tx) error {
		for _, l := range append([]ocispec.Descriptor{m.base.Manifest.Config}, m.base.Manifest.Layers...) {
			if _, err := content.Get(tx, m.opt.Namespace, l.Digest); err != nil {
				return fmt.Errorf("image %s: %w", m.base.Descriptor.Digest, err)
			}
		}
		return nil
	})
}

// findBase finds the image on whose layers a container stands: that of its name, or any other that has the same.
func findBase(ctx context.Context, d *state.Dir, ns string, c container.Container) (base image.Manifest, err error) {
	var top string
	var all []image.Image
	err = d.View(ctx, func(tx *state.Tx) error {
		all = nil
		sn, err := snapshot.Named(c.Snapshotter)
		if err != nil {
			return err
		}
		s, err := sn.Get(tx, ns, c.SnapshotKey)
		if err != nil {
			return err
		}
		top = s.Parent
		if own, err := image.Get(tx, ns, c.Image); err == nil {
			all = append(all, own)
		}
		for other, err := range image.All(tx, ns) {
			if err == nil {
				all = append(all, other)
			}
		}
		return nil
	})
	if err != nil {
		return base, err
	}
	seen := map[digest.Digest]bool{}
	for _, img := range all {
		if seen[img.Target.Digest] {
			continue
		}
		seen[img.Target.Digest] = true
		found, err := image.Present(d, img.Target)
		if err != nil {
			continue // one that is damaged is not the one
		}
		for _, m := range found {
			if n := len(m.ChainIDs); n > 0 && m.ChainIDs[n-1].String() == top || n == 0 && top == "" {
				return m, nil
			}
		}
	}
	return base, &NoBaseError{c.Image}
}

// NoBaseError says that the image of a container is not here any more. Its kind is errdefs.ErrNotFound.
type NoBaseError struct{ Image string }

// Error names the image.
func (e *NoBaseError) Error() string {
	return fmt.Sprintf("its image %s, or another with the same layers, is not here", cmp.Or(e.Image, "(without a name)"))
}

// Unwrap gives the kind.
func (e *NoBaseError) Unwrap() error { return errdefs.ErrNotFound }

// Hint names the next step.
func (e *NoBaseError) Hint() string {
	if e.Image == "" {
		return ""
	}
	return "ctr-pull " + e.Image
}

// layer stores what the container has changed.
func (m *maker) layer(ctx context.Context) (res diff.Result, err error) {
	_, err = m.work.Store(ctx, "", func(w io.Writer) error {
		return m.task.Still(ctx, !m.opt.NoPause, func(from, to []string) (err error) {
			res, err = m.write(ctx, w, from, to)
			return err
		})
	})
	return res, err
}

func (m *maker) write(ctx context.Context, w io.Writer, from, to []string) (diff.Result, error) {
	res, err := WriteChange(ctx, m.task, w, from, to, diff.Options{Compression: cmp.Or(m.opt.Compression, diff.Gzip), Latest: m.opt.Time})
	if image.IsManifest(m.base.Descriptor.MediaType) && m.base.Descriptor.MediaType == image.DockerManifest {
		res.Descriptor.MediaType = dockerLayer[res.Descriptor.MediaType]
	}
	return res, err
}

// WriteChange writes what a container has changed of its files as a layer, from the trees of [task.Task.Still]. What is
// mounted in it is left out, and so are the places of that which were made by its start. o.Places does not count.
func WriteChange(ctx context.Context, t *task.Task, w io.Writer, from, to []string, o diff.Options) (diff.Result, error) {
	o.Places = map[string]bool{"etc/hosts": true, "etc/hostname": true, "etc/resolv.conf": true}
	spec, err := t.Spec(ctx)
	if err != nil {
		return diff.Result{}, err
	}
	for _, mount := range spec.Mounts {
		o.Places[clean(mount.Destination)] = true
	}
	return diff.Write(ctx, w, from, to, o)
}

// dockerLayer gives the media types of Docker's format for those of OCI's: a manifest has one or the other.
var dockerLayer = map[string]string{
	ocispec.MediaTypeImageLayer:     "application/vnd.docker.image.rootfs.diff.tar",
	ocispec.MediaTypeImageLayerGzip: "application/vnd.docker.image.rootfs.diff.tar.gzip",
	ocispec.MediaTypeImageLayerZstd: "application/vnd.docker.image.rootfs.diff.tar.zstd",
}

// document stores configuration and manifest.
func (m *maker) document(ctx context.Context, layer diff.Result) error {
	raw, err := configOf(m.base.RawConfig, layer.DiffID, m.opt)
	if err != nil {
		return err
	}
	man := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: m.base.Descriptor.MediaType,
		Config: ocispec.Descriptor{MediaType: m.base.Manifest.Config.MediaType},
		Layers: append(append([]ocispec.Descriptor{}, m.base.Manifest.Layers...), layer.Descriptor),
	}
	if man.Config, err = m.work.StoreBytes(ctx, man.Config.MediaType, raw); err != nil {
		return err
	}
	data, err := json.Marshal(man)
	if err != nil {
		return err
	}
	if m.made.Descriptor, err = m.work.StoreBytes(ctx, man.MediaType, data); err != nil {
		return err
	}
	m.made, err = image.Complete(m.made, func(desc ocispec.Descriptor) ([]byte, error) {
		return content.ReadAll(m.d, desc, image.MaxManifest)
	})
	return err
}

// record gives the image its name. What an API or a user attached to the name stays.
func (m *maker) record(tx *state.Tx, name string) (image.Image, error) {
	old, err := image.Get(tx, m.opt.Namespace, name)
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
		return old, err
	}
	if err == nil && old.Target.Digest == m.made.Descriptor.Digest {
		return old, nil
	}
	if err := image.Put(tx, m.opt.Namespace, image.Image{Name: name, Target: m.made.Descriptor, Labels: old.Labels}); err != nil {
		return old, err
	}
	return image.Get(tx, m.opt.Namespace, name)
}
