// SPDX-License-Identifier: Apache-2.0

package native

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/diff"
	"ctrd.dev/ctrd/lib/layer"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
)

// labelUncompressed has the diff id of a layer that is compressed.
const labelUncompressed = "containerd.io/uncompressed"

// compressions are the layers that can be written, by media type.
var compressions = map[string]*diff.Compression{
	ocispec.MediaTypeImageLayer:                         diff.None,
	ocispec.MediaTypeImageLayerGzip:                     diff.Gzip,
	ocispec.MediaTypeImageLayerZstd:                     diff.Zstd,
	"application/vnd.docker.image.rootfs.diff.tar.gzip": diff.Gzip,
	"application/vnd.docker.image.rootfs.diff.tar":      diff.None,
	"application/vnd.docker.image.rootfs.diff.tar.zstd": diff.Zstd,
}

type diffService struct {
	diffapi.UnimplementedDiffServer
	s *Server
}

// Apply unpacks a layer of the content store onto mounts, and answers with the descriptor of its uncompressed tar.
func (s diffService) Apply(ctx context.Context, r *diffapi.ApplyRequest) (*diffapi.ApplyResponse, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	dg, err := parseDigest(r.GetDiff().GetDigest())
	if err != nil {
		return nil, err
	}
	blob, err := content.OpenRange(ctx, s.s.d, ns, dg, 0, 0)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	res, err := diff.Apply(ctx, blob, layer.Options{MediaType: r.Diff.MediaType}, mountsOf(r.Mounts))
	if err != nil {
		return nil, err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: res.DiffID, Size: res.Bytes}
	return &diffapi.ApplyResponse{Applied: descriptorMessage(desc)}, nil
}

// Diff writes the layer that makes the right mounts of the left ones into the content store.
func (s diffService) Diff(ctx context.Context, r *diffapi.DiffRequest) (*diffapi.DiffResponse, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	mediaType := cmp.Or(r.MediaType, ocispec.MediaTypeImageLayerGzip)
	compression, ok := compressions[mediaType]
	if !ok {
		return nil, fmt.Errorf("layer of type %.200q: %w", mediaType, errdefs.ErrNotImplemented)
	}
	o := diff.Options{Compression: compression}
	if r.SourceDateEpoch != nil {
		o.Latest = r.SourceDateEpoch.AsTime()
	}
	w, err := content.OpenWriter(ctx, s.s.d, ns, content.WriterOptions{Ref: cmp.Or(r.Ref, "diff-"+rand.Text()), Lease: lease(ctx)})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if err := w.Truncate(0); err != nil {
		return nil, err
	}
	made, err := diff.Compare(ctx, w, mountsOf(r.Left), mountsOf(r.Right), o)
	if err != nil {
		return nil, errors.Join(err, w.Close(), content.Abort(context.WithoutCancel(ctx), s.s.d, ns, w.Status().Ref, lease(ctx)))
	}
	labels := maps.Clone(r.Labels)
	if compression != diff.None {
		if labels == nil {
			labels = map[string]string{}
		}
		labels[labelUncompressed] = made.DiffID.String()
	}
	if err := s.keep(ctx, ns, w, made.Descriptor, labels); err != nil {
		return nil, err
	}
	made.Descriptor.MediaType = mediaType
	return &diffapi.DiffResponse{Diff: descriptorMessage(made.Descriptor)}, nil
}

// keep records what was written, or adds the labels to the record that is there.
func (s diffService) keep(ctx context.Context, ns string, w *content.Writer, desc ocispec.Descriptor, labels map[string]string) error {
	_, err := w.Commit(ctx, desc.Size, desc.Digest, labels)
	if !errdefs.IsAlreadyExists(err) {
		return err
	}
	return s.s.d.Update(ctx, nil, func(tx *state.Tx) error { return content.Label(tx, ns, desc.Digest, labels) })
}

func mountsOf(all []*types.Mount) (list []mount.Mount) {
	for _, m := range all {
		list = append(list, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return list
}
