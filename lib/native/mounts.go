// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"errors"
	"fmt"

	mountsapi "github.com/containerd/containerd/api/services/mounts/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"

	"ctrd.dev/ctrd/lib/activation"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/lock"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
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
		all, err = filter.Select(f, filter.Readable(activation.All(tx, ns)), func(a activation.Activation) filter.Fields {
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

// root is what ctrd has mounted for the root of a task that is being made.
type root struct {
	s    *Server
	ns   string
	made activation.Activation
	held *lock.Held // nil: nothing was made
}

// rootfs gives the mounts of a task's root that its shim can do, after those were made that it cannot; these go when the task
// is deleted, or its container removed. They are this task's alone: what an earlier task of the container has left, or one of
// another container that had its id, is taken away first. The caller calls settle when the task is made, or is not.
func (s *Server) rootfs(ctx context.Context, t *task.Task, given []*types.Mount) (all []taskapi.Mount, r root, err error) {
	r = root{s: s, ns: t.Namespace}
	mounts := mountsOf(given)
	for len(mounts) > 0 {
		r.made, r.held, err = activation.Begin(ctx, s.d, t.Namespace, activation.Request{
			Name: t.ID(), Mounts: mounts, Labels: map[string]string{backToContainer: t.ID()}, Container: t.Container.UID,
		})
		if errdefs.IsAlreadyExists(err) {
			if err = s.endLeftRoot(ctx, t); err == nil {
				continue
			}
		}
		if err == nil {
			mounts = r.made.System
		} else if !errdefs.IsNotImplemented(err) {
			return nil, r, err
		}
		break
	}
	for _, m := range mounts {
		all = append(all, taskapi.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return all, r, nil
}

// settle ends the making of a task, with the error that it has: of a task that was not made the mounts go.
func (r root) settle(ctx context.Context, err error) {
	if r.held == nil {
		return
	}
	if err != nil {
		r.s.endRoot(ctx, r.ns, r.made)
		_ = r.held.Release() // its file is gone
	} else if err := r.held.Remove(); err != nil {
		r.s.log.Warn("the lock file of the mounts of a task stays", "namespace", r.ns, "container", r.made.Name, "error", err)
	}
}

// endLeftRoot takes away what stands under a container's id, if it is of a task that is no more. What a client has activated
// under that name, and what a task has or is about to get, is errdefs.ErrAlreadyExists.
func (s *Server) endLeftRoot(ctx context.Context, t *task.Task) error {
	var a activation.Activation
	err := s.d.View(ctx, func(tx *state.Tx) (err error) {
		a, err = activation.Get(tx, t.Namespace, t.ID())
		return err
	})
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case a.Container == "":
		return fmt.Errorf("mounts %q are a client's: %w", a.Name, errdefs.ErrAlreadyExists)
	case activation.Live(s.d, a.ID): // looked at before the task is: whoever makes one lets go when it is there
		return fmt.Errorf("a task of container %q is being made: %w", t.ID(), errdefs.ErrAlreadyExists)
	}
	switch now, err := task.OpenTask(ctx, s.d, t.Namespace, t.ID()); {
	case err == nil:
		return errors.Join(fmt.Errorf("a task of container %q: %w", t.ID(), errdefs.ErrAlreadyExists), now.Close())
	case !errdefs.IsNotFound(err):
		return err
	}
	if err := a.End(ctx, s.d, t.Namespace); !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// rootOf gives the activation that a task has for its root; one without a name if it has none.
func (s *Server) rootOf(ctx context.Context, t *task.Task) (a activation.Activation, err error) {
	err = s.d.View(ctx, func(tx *state.Tx) (err error) {
		a, err = activation.Get(tx, t.Namespace, t.ID())
		return err
	})
	if errdefs.IsNotFound(err) || err == nil && a.Container != t.Container.UID {
		return activation.Activation{}, nil
	}
	return a, err
}

// endRoot takes away what rootfs has made, if it has.
func (s *Server) endRoot(ctx context.Context, ns string, a activation.Activation) {
	if a.Name == "" {
		return
	}
	err := a.End(context.WithoutCancel(ctx), s.d, ns)
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("the mounts of a task stay until its container is removed", "namespace", ns, "container", a.Name, "error", err)
	}
}
