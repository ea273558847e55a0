// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskapi"
)

// specType is the type URL of an OCI spec in containerd.
const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// gcRef begins the labels of a manifest that keep its blobs.
const gcRef = "containerd.io/gc.ref.content."

// Image makes a checkpoint of the processes of a running task and records it under name: a manifest, which any registry takes,
// with the container's spec as its configuration and the archive of criu's files as its layer. The files that the container has
// changed are not in it: see package commit.
func Image(ctx context.Context, d *state.Dir, t *task.Task, name string, o taskapi.CheckpointOptions) (img image.Image, err error) {
	ref, err := image.Parse(name)
	if err != nil {
		return img, err
	}
	if ref.Digest != "" {
		return img, fmt.Errorf("image %q: the digest is not known before it is made: %w", name, errdefs.ErrInvalidArgument)
	}
	work, err := pull.NewLocal(d, pull.Options{Namespace: t.Namespace})
	if err != nil {
		return img, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: MediaTypeCriu}
	var raw []byte
	err = d.View(ctx, func(tx *state.Tx) (err error) {
		raw, err = container.RawSpec(tx, t.Namespace, t.ID())
		return err
	})
	if err != nil {
		return img, err
	}
	if m.Config, err = work.StoreBytes(ctx, MediaTypeSpec, Spec(specType, raw)); err != nil {
		return img, err
	}
	err = Dump(ctx, d, t, o, func(dir string) error {
		criu, err := work.Store(ctx, MediaTypeCriu, func(w io.Writer) error { return Pack(ctx, w, dir) })
		m.Layers = []ocispec.Descriptor{criu}
		return err
	})
	if err != nil {
		return img, err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return img, err
	}
	target, err := work.StoreBytes(ctx, m.MediaType, data)
	if err != nil {
		return img, err
	}
	crash.Point("checkpoint.stored")
	err = work.Record(ctx, func(tx *state.Tx) error {
		labels := map[string]string{gcRef + "config": m.Config.Digest.String(), gcRef + "l.0": m.Layers[0].Digest.String()}
		for _, b := range []content.Blob{
			{Digest: m.Config.Digest, Size: m.Config.Size}, {Digest: m.Layers[0].Digest, Size: m.Layers[0].Size},
			{Digest: target.Digest, Size: target.Size, Labels: labels},
		} {
			if err := content.Merge(tx, t.Namespace, b); err != nil {
				return err
			}
		}
		img = image.Image{Name: ref.String(), Target: target, Labels: map[string]string{"containerd.io/checkpoint": "true"}}
		return image.Put(tx, t.Namespace, img)
	})
	return img, err
}

// Restore starts a container that does not run from a checkpoint: the processes are those of the image name, or of the
// directory dir of criu's files.
func Restore(ctx context.Context, d *state.Dir, t *task.Task, name, dir string) error {
	if name == "" {
		return t.Start(ctx, task.StartOptions{Checkpoint: dir})
	}
	var img image.Image
	err := d.View(ctx, func(tx *state.Tx) (err error) {
		img, err = image.Find(tx, t.Namespace, name)
		return err
	})
	if err != nil {
		return err
	}
	criu, err := find(d, img)
	if err != nil {
		return fmt.Errorf("image %q: %w", name, err)
	}
	blob, err := content.OpenRange(ctx, d, t.Namespace, criu.Digest, 0, 0)
	if err != nil {
		return fmt.Errorf("image %q: %w", name, err)
	}
	defer blob.Close()
	s, err := Prepare(ctx, d, t, blob, criu.Digest)
	if err != nil {
		return fmt.Errorf("image %q: %w", name, err)
	}
	return errors.Join(t.Start(ctx, task.StartOptions{Checkpoint: s.Path}), s.Close())
}

// find finds the archive of criu's files in an image: in a manifest as [Image] makes it, or in an index as containerd's clients do.
func find(d *state.Dir, img image.Image) (ocispec.Descriptor, error) {
	data, err := content.ReadAll(d, img.Target, image.MaxManifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var parts []ocispec.Descriptor
	if image.IsIndex(img.Target.MediaType) {
		var index ocispec.Index
		index, err = image.ParseIndex(data, img.Target.MediaType)
		parts = index.Manifests
	} else {
		var m ocispec.Manifest
		m, err = image.ParseArtifact(data, img.Target.MediaType)
		parts = m.Layers
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, p := range parts {
		if p.MediaType == MediaTypeCriu {
			return p, nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("it is no checkpoint: %w", errdefs.ErrInvalidArgument)
}
