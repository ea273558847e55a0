// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimespecs "github.com/opencontainers/runtime-spec/specs-go"

	"ctrd.dev/ctrd/lib/commit"
	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/crash"
	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/image"
	"ctrd.dev/ctrd/lib/pull"
	"ctrd.dev/ctrd/lib/spec"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
	"ctrd.dev/ctrd/lib/taskapi"
	"ctrd.dev/ctrd/lib/taskdir"
)

// specType is the type URL of an OCI spec in containerd.
const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// gcRef begins the labels of a manifest that keep its blobs.
const gcRef = "containerd.io/gc.ref.content."

// imageName is the annotation of a checkpoint that names the image of its container, as containerd's client has it.
const imageName = "image.name"

// ImageOptions say what is in an image of a checkpoint.
type ImageOptions struct {
	taskapi.CheckpointOptions
	IgnoreVolumes bool // leaves out the files in volumes
}

// Image makes a checkpoint of a running task and records it under name: a manifest, which any registry takes, with the container's
// spec as its configuration and as its layers the archive of criu's files, what the container has changed of its files, its volumes
// without a source, and its record. Of a container with a user namespace no files are in it.
func Image(ctx context.Context, d *state.Dir, t *task.Task, name string, o ImageOptions) (img image.Image, err error) {
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
	m := &maker{t: t, work: work, Manifest: ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: MediaTypeCriu,
	}}
	if t.Container.Image != "" {
		m.Annotations = map[string]string{imageName: t.Container.Image}
	}
	if err := m.documents(ctx, d); err != nil {
		return img, err
	}
	err = m.dump(ctx, d, o, func() error {
		img, err = m.record(ctx, ref)
		return err
	})
	return img, err
}

// record makes the manifest and gives it a name.
func (m *maker) record(ctx context.Context, ref image.Reference) (img image.Image, err error) {
	t, work := m.t, m.work
	data, err := json.Marshal(m.Manifest)
	if err != nil {
		return img, err
	}
	target, err := work.StoreBytes(ctx, m.MediaType, data)
	if err != nil {
		return img, err
	}
	crash.Point("checkpoint.stored")
	err = work.Record(ctx, func(tx *state.Tx) error {
		labels := map[string]string{gcRef + "config": m.Config.Digest.String()}
		blobs := []content.Blob{{Digest: m.Config.Digest, Size: m.Config.Size}}
		for i, l := range m.Layers {
			labels[gcRef+"l."+strconv.Itoa(i)] = l.Digest.String()
			blobs = append(blobs, content.Blob{Digest: l.Digest, Size: l.Size})
		}
		for _, b := range append(blobs, content.Blob{Digest: target.Digest, Size: target.Size, Labels: labels}) {
			if err := content.Merge(tx, t.Namespace, b); err != nil {
				return err
			}
		}
		img = image.Image{Name: ref.String(), Target: target, Labels: map[string]string{"containerd.io/checkpoint": "true"}}
		return image.Put(tx, t.Namespace, img)
	})
	return img, err
}

// Lacks tells what of a container would not be in an image of a checkpoint although the options ask for it, in words.
func Lacks(ctx context.Context, t *task.Task, o ImageOptions) (all []string, err error) {
	if !t.Container.UserNS.Private() {
		return nil, nil
	}
	if !o.IgnoreVolumes {
		volumes, err := t.Volumes(ctx)
		if err != nil {
			return nil, err
		}
		for _, at := range volumes {
			all = append(all, "the files in the volume at "+at+", since it has a user namespace")
		}
	}
	return append(all, "the files that it has changed, since it has a user namespace"), nil
}

// maker makes the manifest of one checkpoint.
type maker struct {
	ocispec.Manifest
	t    *task.Task
	work *pull.Local
}

// documents stores what says how the container was made.
func (m *maker) documents(ctx context.Context, d *state.Dir) error {
	raw, err := rawSpec(ctx, d, m.t)
	if err != nil {
		return err
	}
	if m.Config, err = m.work.StoreBytes(ctx, MediaTypeSpec, Spec(specType, raw)); err != nil {
		return err
	}
	record, err := json.Marshal(m.t.Container)
	if err != nil {
		return err
	}
	desc, err := m.work.StoreBytes(ctx, MediaTypeRecord, record)
	m.Layers = append(m.Layers, desc)
	return err
}

// rawSpec reads the spec of a container as it was recorded.
func rawSpec(ctx context.Context, d *state.Dir, t *task.Task) (raw []byte, err error) {
	err = d.View(ctx, func(tx *state.Tx) error {
		raw, err = container.RawSpec(tx, t.Namespace, t.ID())
		return err
	})
	return raw, err
}

// dump stores the processes and the files, both as they were at one moment, and calls record. Of a task that ends with it nothing is thrown
// away before that.
func (m *maker) dump(ctx context.Context, d *state.Dir, o ImageOptions, record func() error) error {
	processes := func(dir string) error {
		desc, err := m.work.Store(ctx, MediaTypeCriu, func(w io.Writer) error { return Pack(ctx, w, dir) })
		m.Layers = append(m.Layers, desc)
		return err
	}
	files := func(from, to []string) error {
		if m.t.Container.UserNS.Private() {
			return nil // the owners are mapped, and a layer has none that are
		}
		desc, err := m.work.Store(ctx, ocispec.MediaTypeImageLayerGzip, func(w io.Writer) error {
			_, err := commit.WriteChange(ctx, m.t, w, from, to, diff.Options{Compression: diff.Gzip})
			return err
		})
		m.Layers = append(m.Layers, desc)
		if err != nil || o.IgnoreVolumes {
			return err
		}
		return m.volumes(ctx)
	}
	if o.Exit {
		ended := m.t.Incarnation()
		return Dump(ctx, d, m.t, o.CheckpointOptions, func(dir string) error {
			err := processes(dir)
			if err == nil { // nobody writes to the files any more, unless it runs again
				err = m.t.Still(ctx, false, func(from, to []string) error {
					if err := m.isStill(ended); err != nil {
						return err
					}
					return files(from, to)
				})
			}
			if err == nil {
				err = record()
			}
			return err
		})
	}
	err := m.t.Still(ctx, true, func(from, to []string) error {
		if err := Dump(ctx, d, m.t, o.CheckpointOptions, processes); err != nil {
			return err
		}
		return files(from, to)
	})
	if err == nil {
		err = record()
	}
	return err
}

// isStill refuses files that are not those which the task has ended with: the container has been started again.
func (m *maker) isStill(ended taskdir.Incarnation) error {
	if m.t.Incarnation() == ended {
		if v, err := taskdir.Look(m.t.Dir()); err != nil || v.State == taskdir.Stopped {
			return err
		}
	}
	return fmt.Errorf("it has been started again meanwhile, and its files are others now: %w", errdefs.ErrAborted)
}

// volumes stores the files of the volumes without a source.
func (m *maker) volumes(ctx context.Context) error {
	all, err := m.t.Volumes(ctx)
	if err != nil {
		return err
	}
	for i, at := range all {
		desc, err := m.work.Store(ctx, MediaTypeVolume, func(w io.Writer) error {
			return m.t.WriteVolume(ctx, w, i, diff.Options{Compression: diff.Gzip})
		})
		if err != nil {
			return fmt.Errorf("volume at %s: %w", at, err)
		}
		desc.Annotations = map[string]string{volumePlace: at}
		m.Layers = append(m.Layers, desc)
	}
	return nil
}

// Restore starts a container that does not run from a checkpoint: the processes are those of the image name, or of the
// directory dir of criu's files. Its files are its own.
func Restore(ctx context.Context, d *state.Dir, t *task.Task, name, dir string) error {
	if name == "" {
		if err := t.Start(ctx, task.StartOptions{Checkpoint: dir}); err != nil {
			return err
		}
		_ = Sweep(d, t) // the directory may be what an earlier task has ended with
		return nil
	}
	s, err := read(ctx, d, t.Namespace, name)
	if err != nil {
		return err
	}
	if err := s.start(ctx, d, t); err != nil {
		return fmt.Errorf("image %q: %w", name, err)
	}
	_ = Sweep(d, t)
	return nil
}

// RestoreNew makes a container from a checkpoint, which may be one of containerd's, and starts it: spec, files and processes are
// those of the image name. Of o count ID, Image, Snapshotter and Labels. One that cannot be restored is removed again. Volumes that are not
// in the checkpoint are as its image has them.
func RestoreNew(ctx context.Context, d *state.Dir, ns, name string, o task.CreateOptions) (*task.Task, error) {
	s, err := read(ctx, d, ns, name)
	if err != nil {
		return nil, err
	}
	if o.Saved, err = s.saved(d); err != nil {
		return nil, fmt.Errorf("image %q: %w", name, err)
	}
	t, err := task.Create(ctx, d, ns, o)
	if err != nil {
		return nil, err
	}
	crash.Point("checkpoint.created")
	if err = s.files(ctx, d, t); err == nil {
		err = s.start(ctx, d, t)
	}
	if err != nil {
		err = fmt.Errorf("image %q: %w", name, err)
		return nil, errors.Join(err, t.Remove(context.WithoutCancel(ctx), true))
	}
	return t, nil
}

// BaseImage gives the name of the image on which the container of a checkpoint stood, which need not be here.
func BaseImage(ctx context.Context, d *state.Dir, ns, name string) (string, error) {
	s, err := read(ctx, d, ns, name)
	if err == nil && s.image == "" {
		err = fmt.Errorf("image %q: it does not say which image its container stood on: %w", name, errdefs.ErrInvalidArgument)
	}
	return s.image, err
}

// parts are those of a checkpoint in the content store. Each is of whoever made it.
type parts struct {
	image                      string // of the container
	criu, spec, record, change *ocispec.Descriptor
	volumes                    []ocispec.Descriptor
}

// read finds the parts of an image: of a manifest as [Image] makes it, or of an index as containerd's clients do.
func read(ctx context.Context, d *state.Dir, ns, name string) (s parts, err error) {
	var img image.Image
	err = d.View(ctx, func(tx *state.Tx) (err error) {
		img, err = image.Find(tx, ns, name)
		return err
	})
	if err != nil {
		return s, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("image %q: %w", name, err)
		}
	}()
	data, err := content.ReadAll(d, img.Target, image.MaxManifest)
	if err != nil {
		return s, err
	}
	var all []ocispec.Descriptor
	if image.IsIndex(img.Target.MediaType) {
		var index ocispec.Index
		index, err = image.ParseIndex(data, img.Target.MediaType)
		all, s.image = index.Manifests, cmp.Or(index.Annotations[imageName], index.Annotations[ocispec.AnnotationRefName])
	} else {
		var m ocispec.Manifest
		m, err = image.ParseArtifact(data, img.Target.MediaType)
		all, s.image = append(m.Layers, m.Config), m.Annotations[imageName]
	}
	if err != nil {
		return s, err
	}
	for i := range all {
		switch p := &all[i]; p.MediaType {
		case MediaTypeCriu:
			s.criu = p
		case MediaTypeSpec:
			s.spec = p
		case MediaTypeRecord:
			s.record = p
		case MediaTypeVolume:
			s.volumes = append(s.volumes, *p)
		case ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerZstd:
			s.change = p
		}
	}
	if s.criu == nil {
		return s, fmt.Errorf("it is no checkpoint: %w", errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// saved reads what the container was.
func (s parts) saved(d *state.Dir) (*task.Saved, error) {
	if s.spec == nil {
		return nil, fmt.Errorf("it has no spec: %w", errdefs.ErrInvalidArgument)
	}
	data, err := content.ReadAll(d, *s.spec, maxDocument)
	if err != nil {
		return nil, err
	}
	var packed taskapi.Any
	saved := &task.Saved{Spec: &runtimespecs.Spec{}}
	if err = taskapi.Unmarshal(data, &packed); err == nil {
		err = json.Unmarshal(packed.Value, saved.Spec)
	}
	if err != nil {
		return nil, fmt.Errorf("its spec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	places := spec.Volumes(saved.Spec)
	saved.Volumes = map[string]bool{}
	for _, v := range s.volumes {
		at := v.Annotations[volumePlace]
		if !slices.Contains(places, at) || saved.Volumes[at] {
			return nil, fmt.Errorf("its spec has no volume at %.200q for its layer %s: %w", at, v.Digest, errdefs.ErrInvalidArgument)
		}
		saved.Volumes[at] = true
	}
	if s.record == nil {
		return saved, nil
	}
	if data, err = content.ReadAll(d, *s.record, maxDocument); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &saved.Container); err != nil {
		return nil, fmt.Errorf("its record: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return saved, nil
}

// maxDocument bounds a spec and a record of a checkpoint, in bytes.
const maxDocument = 16 << 20

// files gives a container the files that were changed, and those in volumes.
func (s parts) files(ctx context.Context, d *state.Dir, t *task.Task) error {
	if s.change != nil {
		err := readBlob(ctx, d, t, *s.change, func(r io.Reader) error { return t.ApplyChange(ctx, r, s.change.MediaType) })
		if err != nil {
			return err
		}
	}
	if len(s.volumes) == 0 {
		return nil
	}
	places, err := t.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, v := range s.volumes {
		at := v.Annotations[volumePlace]
		n := slices.Index(places, at)
		if n < 0 {
			return fmt.Errorf("container %q has no volume at %s: %w", t.ID(), at, errdefs.ErrNotFound)
		}
		err := readBlob(ctx, d, t, v, func(r io.Reader) error { return t.FillVolume(ctx, r, n, ocispec.MediaTypeImageLayerGzip) })
		if err != nil {
			return fmt.Errorf("volume at %s: %w", at, err)
		}
	}
	return nil
}

// readBlob calls fn with the bytes of a blob, which are errdefs.ErrDataLoss when they have another digest.
func readBlob(ctx context.Context, d *state.Dir, t *task.Task, desc ocispec.Descriptor, fn func(io.Reader) error) error {
	blob, err := content.OpenRange(ctx, d, t.Namespace, desc.Digest, 0, 0)
	if err != nil {
		return err
	}
	defer blob.Close()
	sum := desc.Digest.Verifier()
	r := io.TeeReader(blob, sum)
	if err := fn(r); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // what follows the end of the layer
		return err
	}
	if !sum.Verified() {
		return fmt.Errorf("blob %s: its bytes have another digest: %w", desc.Digest, errdefs.ErrDataLoss)
	}
	return nil
}

// start starts a container with the processes.
func (s parts) start(ctx context.Context, d *state.Dir, t *task.Task) error {
	blob, err := content.OpenRange(ctx, d, t.Namespace, s.criu.Digest, 0, 0)
	if err != nil {
		return err
	}
	defer blob.Close()
	scratch, err := Prepare(ctx, d, t, blob, s.criu.Digest)
	if err != nil {
		return err
	}
	return errors.Join(t.Start(ctx, task.StartOptions{Checkpoint: scratch.Path}), scratch.Close())
}
