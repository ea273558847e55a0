// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"

	mountsapi "github.com/containerd/containerd/api/services/mounts/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"

	"ctrd.dev/ctrd/lib/activation"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskapi"
)

// backToContainer is the label with which an activation goes with its container.
const backToContainer = "containerd.io/gc.bref.container"

type mountService struct {
	mountsapi.UnimplementedMountsServer
	s *Server
}

// Activate mounts what the caller cannot. Unimplemented says that it can mount all.
func (m mountService) Activate(ctx context.Context, r *mountsapi.ActivateRequest) (*mountsapi.ActivateResponse, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	a, err := activation.Activate(ctx, m.s.d, ns, activation.Request{
		Name: r.Name, Mounts: mountsOf(r.Mounts), Labels: r.Labels, Lease: lease(ctx), Temporary: r.Temporary,
	})
	if err != nil {
		return nil, err
	}
	return &mountsapi.ActivateResponse{Info: activationMessage(a)}, nil
}

// Deactivate unmounts.
func (m mountService) Deactivate(ctx context.Context, r *mountsapi.DeactivateRequest) (*emptypb.Empty, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	if err := activation.Deactivate(ctx, m.s.d, ns, r.Name); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Info tells of one activation.
func (m mountService) Info(ctx context.Context, r *mountsapi.InfoRequest) (*mountsapi.InfoResponse, error) {
	var a activation.Activation
	err := m.s.view(ctx, func(tx *state.Tx, ns string) (err error) {
		a, err = activation.Get(tx, ns, r.Name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &mountsapi.InfoResponse{Info: activationMessage(a)}, nil
}

// Update changes the labels that the mask names, or all.
func (m mountService) Update(ctx context.Context, r *mountsapi.UpdateRequest) (*mountsapi.UpdateResponse, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	var a activation.Activation
	err = m.s.d.UpdateRun(ctx, nil, func(tx *state.Tx) (err error) {
		a, err = activation.Update(tx, ns, r.GetInfo().GetName(), r.GetInfo().GetLabels(), r.GetUpdateMask().GetPaths()...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &mountsapi.UpdateResponse{Info: activationMessage(a)}, nil
}

// List sends the activations that a filter fits, one a message.
func (m mountService) List(r *mountsapi.ListRequest, stream mountsapi.Mounts_ListServer) error {
	f, err := filter.Parse(r.Filters...)
	if err != nil {
		return err
	}
	var all []*types.ActivationInfo
	err = m.s.view(stream.Context(), func(tx *state.Tx, ns string) (err error) {
		all, err = filter.Select(f, activation.All(tx, ns), func(a activation.Activation) filter.Fields {
			return filter.Namespace(a.Name, a.Labels)
		}, sure(activationMessage))
		return err
	})
	for i := 0; i < len(all) && err == nil; i++ {
		err = stream.Send(&mountsapi.ListMessage{Info: all[i]})
	}
	return err
}

func activationMessage(a activation.Activation) *types.ActivationInfo {
	info := &types.ActivationInfo{Name: a.Name, Labels: a.Labels}
	for _, m := range a.Active {
		info.Active = append(info.Active, &types.ActiveMount{Mount: mountMessages([]mount.Mount{m.Mount})[0], MountedAt: stamp(m.MountedAt), MountPoint: m.Point})
	}
	info.System = mountMessages(a.System)
	return info
}

// rootfs gives the mounts of a task's root that its shim can do, after those were made that it cannot; these go when the task
// is deleted, or its container removed. made tells that something was made.
func (s *Server) rootfs(ctx context.Context, ns, id string, given []*types.Mount) (all []taskapi.Mount, made bool, err error) {
	mounts := mountsOf(given)
	if len(mounts) > 0 {
		a, err := activation.Activate(ctx, s.d, ns, activation.Request{
			Name: id, Mounts: mounts, Labels: map[string]string{backToContainer: id},
		})
		if errdefs.IsAlreadyExists(err) { // of a task whose deletion was cut off, or of one that is there
			err = s.view(ctx, func(tx *state.Tx, ns string) (err error) {
				a, err = activation.Get(tx, ns, id)
				return err
			})
		} else {
			made = err == nil
		}
		switch {
		case err == nil:
			mounts = a.System
		case !errdefs.IsNotImplemented(err):
			return nil, false, err
		}
	}
	for _, m := range mounts {
		all = append(all, taskapi.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return all, made, nil
}

// unmountRoot takes away what rootfs has made, if it has.
func (s *Server) unmountRoot(ctx context.Context, ns, id string) {
	err := activation.Deactivate(context.WithoutCancel(ctx), s.d, ns, id)
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("the mounts of a task stay until its container is removed", "namespace", ns, "container", id, "error", err)
	}
}
