// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"fmt"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/image"
	leases "ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/state"
)

type imageService struct {
	imagesapi.UnimplementedImagesServer
	s *Server
}

// Get gives the image of exactly this name.
func (i imageService) Get(ctx context.Context, r *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	answer := &imagesapi.GetImageResponse{}
	err := i.s.view(ctx, func(tx *state.Tx, ns string) error {
		one, err := image.Get(tx, ns, r.Name)
		answer.Image = imageMessage(one)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// List gives the images that a filter fits.
func (i imageService) List(ctx context.Context, r *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	f, err := filter.Parse(r.Filters...)
	if err != nil {
		return nil, err
	}
	answer := &imagesapi.ListImagesResponse{}
	err = i.s.view(ctx, func(tx *state.Tx, ns string) (err error) {
		answer.Images, err = filter.Select(f, filter.Readable(image.All(tx, ns)), func(one image.Image) filter.Fields {
			return filter.Image(one.Name, one.Target, one.Labels)
		}, sure(imageMessage))
		return err
	})
	return answer, err
}

// Create records an image. One that is to expire is held by the lease of the call.
func (i imageService) Create(ctx context.Context, r *imagesapi.CreateImageRequest) (*imagesapi.CreateImageResponse, error) {
	one, err := imageOf(r.Image)
	if err != nil {
		return nil, err
	}
	var made image.Image
	err = i.s.update(ctx, func(tx *state.Tx, ns string) (err error) {
		if made, err = image.Create(tx, ns, one); err != nil {
			return err
		}
		if _, expires := made.Labels[leases.LabelExpire]; !expires {
			return nil
		}
		return leases.Add(tx, ns, lease(ctx), leases.Resource{Type: leases.ImageType, ID: made.Name})
	})
	if err != nil {
		return nil, err
	}
	return &imagesapi.CreateImageResponse{Image: imageMessage(made)}, nil
}

// Update changes the fields of an image that the mask names, or all.
func (i imageService) Update(ctx context.Context, r *imagesapi.UpdateImageRequest) (*imagesapi.UpdateImageResponse, error) {
	one, err := imageOf(r.Image)
	if err != nil {
		return nil, err
	}
	var now image.Image
	err = i.s.update(ctx, func(tx *state.Tx, ns string) (err error) {
		now, err = image.Update(tx, ns, one, r.GetUpdateMask().GetPaths()...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &imagesapi.UpdateImageResponse{Image: imageMessage(now)}, nil
}

// Delete removes a name, if it still leads to the target that the request says. With sync, what only it held is gone when
// the answer comes.
func (i imageService) Delete(ctx context.Context, r *imagesapi.DeleteImageRequest) (*emptypb.Empty, error) {
	err := i.s.update(ctx, func(tx *state.Tx, ns string) error {
		if want := r.GetTarget().GetDigest(); want != "" {
			one, err := image.Get(tx, ns, r.Name)
			if err != nil {
				return err
			}
			if one.Target.Digest.String() != want {
				return fmt.Errorf("image %q is %s by now, not %s: %w", r.Name, one.Target.Digest, want, errdefs.ErrNotFound)
			}
		}
		return image.Remove(tx, ns, r.Name)
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, i.s.collect(ctx, r.Sync)
}

func imageMessage(one image.Image) *imagesapi.Image {
	return &imagesapi.Image{
		Name: one.Name, Labels: one.Labels, Target: descriptorMessage(one.Target),
		CreatedAt: timestamppb.New(one.Created), UpdatedAt: timestamppb.New(one.Updated),
	}
}

func imageOf(m *imagesapi.Image) (image.Image, error) {
	if m == nil {
		return image.Image{}, fmt.Errorf("no image in the request: %w", errdefs.ErrInvalidArgument)
	}
	return image.Image{Name: m.Name, Labels: m.Labels, Target: descriptorOf(m.Target)}, nil
}
