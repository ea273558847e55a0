// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"errors"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/content"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/state"
)

// readBlock is how many bytes a message of a read has at most.
const readBlock = 1 << 20

type contentService struct {
	contentapi.UnimplementedContentServer
	s *Server
}

// Info tells of one blob.
func (c contentService) Info(ctx context.Context, r *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	dg, err := parseDigest(r.Digest)
	if err != nil {
		return nil, err
	}
	var b content.Blob
	err = c.s.view(ctx, func(tx *state.Tx, ns string) (err error) {
		b, err = content.Get(tx, ns, dg)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &contentapi.InfoResponse{Info: blobMessage(b)}, nil
}

// Update changes the labels of a blob that the mask names, or all.
func (c contentService) Update(ctx context.Context, r *contentapi.UpdateRequest) (*contentapi.UpdateResponse, error) {
	dg, err := parseDigest(r.GetInfo().GetDigest())
	if err != nil {
		return nil, err
	}
	var b content.Blob
	err = c.s.update(ctx, func(tx *state.Tx, ns string) (err error) {
		b, err = content.Update(tx, ns, dg, r.Info.Labels, r.GetUpdateMask().GetPaths()...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &contentapi.UpdateResponse{Info: blobMessage(b)}, nil
}

// List sends the blobs that a filter fits.
func (c contentService) List(r *contentapi.ListContentRequest, stream contentapi.Content_ListServer) error {
	f, err := filter.Parse(r.Filters...)
	if err != nil {
		return err
	}
	var all []*contentapi.Info
	err = c.s.view(stream.Context(), func(tx *state.Tx, ns string) (err error) {
		all, err = filter.Select(f, filter.Readable(content.All(tx, ns)), func(b content.Blob) filter.Fields {
			return filter.Content(b.Digest.String(), b.Size, b.Labels)
		}, sure(blobMessage))
		return err
	})
	if err != nil {
		return err
	}
	return inBlocks(all, func(some []*contentapi.Info) error {
		return stream.Send(&contentapi.ListContentResponse{Info: some})
	})
}

// Delete removes a namespace's record of a blob. Its file goes with a collection.
func (c contentService) Delete(ctx context.Context, r *contentapi.DeleteContentRequest) (*emptypb.Empty, error) {
	dg, err := parseDigest(r.Digest)
	if err != nil {
		return nil, err
	}
	err = c.s.update(ctx, func(tx *state.Tx, ns string) error { return content.Remove(tx, ns, dg) })
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, c.s.collect(ctx, false)
}

// Read sends a part of a blob.
func (c contentService) Read(r *contentapi.ReadContentRequest, stream contentapi.Content_ReadServer) error {
	ns, err := namespace(stream.Context())
	if err != nil {
		return err
	}
	dg, err := parseDigest(r.Digest)
	if err != nil {
		return err
	}
	blob, err := content.OpenRange(stream.Context(), c.s.d, ns, dg, r.Offset, max(r.Size, 0))
	if err != nil {
		return err
	}
	defer blob.Close()
	buf := make([]byte, min(readBlock, max(blob.Size(), 1)))
	for at := r.Offset; ; {
		n, err := io.ReadFull(blob, buf)
		if n > 0 {
			if err := stream.Send(&contentapi.ReadContentResponse{Offset: at, Data: buf[:n]}); err != nil {
				return err
			}
			at += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// Status tells how far the ingest of a ref is.
func (c contentService) Status(ctx context.Context, r *contentapi.StatusRequest) (*contentapi.StatusResponse, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	st, err := content.GetStatus(c.s.d, ns, r.Ref)
	if err != nil {
		return nil, err
	}
	return &contentapi.StatusResponse{Status: statusMessage(st)}, nil
}

// ListStatuses tells how far the ingests are that a filter fits.
func (c contentService) ListStatuses(ctx context.Context, r *contentapi.ListStatusesRequest) (*contentapi.ListStatusesResponse, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	f, err := filter.Parse(r.Filters...)
	if err != nil {
		return nil, err
	}
	all, err := filter.Select(f, filter.Readable(content.Statuses(c.s.d, ns)), func(st content.Status) filter.Fields {
		return filter.Ingest(st.Ref)
	}, sure(statusMessage))
	if err != nil {
		return nil, err
	}
	return &contentapi.ListStatusesResponse{Statuses: all}, nil
}

// Abort throws an ingest away.
func (c contentService) Abort(ctx context.Context, r *contentapi.AbortRequest) (*emptypb.Empty, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, content.Abort(ctx, c.s.d, ns, r.Ref, lease(ctx))
}

// Write is one writer: the first request names the ref, each is answered, and a commit ends it.
func (c contentService) Write(stream contentapi.Content_WriteServer) error {
	ctx := stream.Context()
	ns, err := namespace(ctx)
	if err != nil {
		return err
	}
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	o := content.WriterOptions{Ref: r.Ref, Size: r.Total, Digest: digest.Digest(r.Expected), Lease: lease(ctx)}
	if r.Ref == "" {
		return fmt.Errorf("the first request of a write names no ref: %w", errdefs.ErrInvalidArgument)
	}
	if r.Expected != "" {
		if _, err := parseDigest(r.Expected); err != nil {
			return err
		}
	}
	w, err := content.OpenWriter(ctx, c.s.d, ns, o)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		answer, done, err := c.write(ctx, ns, w, &o, r)
		if err != nil {
			return err
		}
		if err := stream.Send(answer); err != nil || done {
			return err
		}
		if r, err = stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// write does what one request of a writer asks for, and tells whether it was the last.
func (c contentService) write(ctx context.Context, ns string, w *content.Writer, o *content.WriterOptions, r *contentapi.WriteContentRequest) (answer *contentapi.WriteContentResponse, done bool, err error) {
	if err := c.agree(ctx, ns, w, o, r); err != nil {
		return nil, false, err
	}
	answer = &contentapi.WriteContentResponse{Action: r.Action}
	switch r.Action {
	case contentapi.WriteAction_STAT:
		dg, err := w.Digest()
		if err != nil {
			return nil, false, err
		}
		answer.Digest = dg.String()
	case contentapi.WriteAction_WRITE, contentapi.WriteAction_COMMIT:
		// Offset 0 begins anew where bytes are there, unless it is a commit without any.
		if len(r.Data) > 0 || r.Action == contentapi.WriteAction_WRITE {
			if _, err := w.WriteAt(r.Data, r.Offset); err != nil {
				return nil, false, err
			}
		}
		if r.Action == contentapi.WriteAction_WRITE {
			break
		}
		b, err := w.Commit(ctx, o.Size, o.Digest, r.Labels)
		if err != nil {
			return nil, false, err
		}
		answer.Digest, answer.Offset, answer.Total = b.Digest.String(), b.Size, b.Size
		answer.StartedAt, answer.UpdatedAt = timestamppb.New(w.Status().Started), timestamppb.New(b.Updated)
		return answer, true, nil
	default:
		return nil, false, fmt.Errorf("write action %d: %w", r.Action, errdefs.ErrInvalidArgument)
	}
	st := w.Status()
	answer.Offset, answer.Total = st.Offset, st.Total
	answer.StartedAt, answer.UpdatedAt = timestamppb.New(st.Started), timestamppb.New(st.Updated)
	return answer, false, nil
}

// agree takes over what a request says of the size and the digest; the newest counts. A blob that the namespace has by
// now ends the ingest, and the lease holds it.
func (c contentService) agree(ctx context.Context, ns string, w *content.Writer, o *content.WriterOptions, r *contentapi.WriteContentRequest) error {
	if r.Ref != "" && r.Ref != o.Ref {
		return fmt.Errorf("ref %q in a write of %q: %w", r.Ref, o.Ref, errdefs.ErrInvalidArgument)
	}
	if r.Total > 0 {
		o.Size = r.Total
	}
	if r.Expected == "" || r.Action == contentapi.WriteAction_COMMIT && digest.Digest(r.Expected) == o.Digest {
		return nil
	}
	dg, err := parseDigest(r.Expected)
	if err != nil {
		return err
	}
	o.Digest = dg
	err = c.s.d.View(ctx, func(tx *state.Tx) error {
		_, err := content.Get(tx, ns, dg)
		return err
	})
	if err != nil {
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	if err := errors.Join(w.Close(), content.Abort(ctx, c.s.d, ns, o.Ref, o.Lease)); err != nil {
		return err
	}
	again, err := content.OpenWriter(ctx, c.s.d, ns, *o)
	if err == nil { // it has been removed in between
		err = fmt.Errorf("ref %q was aborted: %w", o.Ref, errors.Join(errdefs.ErrAborted, again.Close()))
	}
	return err
}

func parseDigest(s string) (digest.Digest, error) {
	dg, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("digest %.100q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return dg, nil
}

func blobMessage(b content.Blob) *contentapi.Info {
	return &contentapi.Info{
		Digest: b.Digest.String(), Size: b.Size, Labels: b.Labels,
		CreatedAt: timestamppb.New(b.Created), UpdatedAt: timestamppb.New(b.Updated),
	}
}

func statusMessage(st content.Status) *contentapi.Status {
	return &contentapi.Status{
		Ref: st.Ref, Offset: st.Offset, Total: st.Total, Expected: st.Expected.String(),
		StartedAt: timestamppb.New(st.Started), UpdatedAt: timestamppb.New(st.Updated),
	}
}
