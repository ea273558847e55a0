// SPDX-License-Identifier: Apache-2.0

package native

import (
	"cmp"
	"context"
	"fmt"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/label"
	leases "ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/task"
)

// specType is the type URL of the JSON of an OCI spec.
const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

type containerService struct {
	containersapi.UnimplementedContainersServer
	s *Server
}

// Get gives one container.
func (c containerService) Get(ctx context.Context, r *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	var m *containersapi.Container
	err := c.s.view(ctx, func(tx *state.Tx, ns string) error {
		one, err := container.Get(tx, ns, r.ID)
		if err == nil {
			m, err = containerMessage(tx, ns, one)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &containersapi.GetContainerResponse{Container: m}, nil
}

// List gives the containers that a filter fits.
func (c containerService) List(ctx context.Context, r *containersapi.ListContainersRequest) (*containersapi.ListContainersResponse, error) {
	var all containersapi.ListContainersResponse
	return &all, c.each(ctx, r.Filters, func(m *containersapi.Container) error {
		all.Containers = append(all.Containers, m)
		return nil
	})
}

// ListStream is List, a container a message.
func (c containerService) ListStream(r *containersapi.ListContainersRequest, stream containersapi.Containers_ListStreamServer) error {
	return c.each(stream.Context(), r.Filters, func(m *containersapi.Container) error {
		return stream.Send(&containersapi.ListContainerMessage{Container: m})
	})
}

// each calls fn with the containers that a filter fits, all as they were at one moment. What is not known stays packed until its turn: a
// client that reads slowly keeps little of it in memory, and one that reads at once has the first while the next is unpacked.
func (c containerService) each(ctx context.Context, filters []string, fn func(*containersapi.Container) error) error {
	f, err := filter.Parse(filters...)
	if err != nil {
		return err
	}
	fits := func(one *listing) (bool, error) {
		if len(filters) == 0 {
			return true, nil
		}
		fields, err := one.fields()
		return err == nil && f.Match(fields), err
	}
	var all []listing
	err = c.s.view(ctx, func(tx *state.Tx, ns string) (err error) {
		all, err = c.s.listed.list(tx, ns, fits)
		return err
	})
	if err != nil {
		return err
	}
	for i := range all {
		m, err := all[i].message(&c.s.listed)
		if err == nil {
			err = fn(m)
		}
		if err != nil {
			return err
		}
		all[i] = listing{} // it may be long until the next
	}
	return nil
}

// Create records a container. Its snapshot is held by it from then on.
func (c containerService) Create(ctx context.Context, r *containersapi.CreateContainerRequest) (*containersapi.CreateContainerResponse, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	one, spec, err := containerOf(r.Container)
	if err != nil {
		return nil, err
	}
	if one.Runtime.Name == "" {
		return nil, fmt.Errorf("container %q has no runtime: %w", one.ID, errdefs.ErrInvalidArgument)
	}
	if err := label.Check(one.Labels); err != nil {
		return nil, fmt.Errorf("container %q: %w", one.ID, err)
	}
	one, err = task.Record(ctx, c.s.d, ns, one, spec, func(tx *state.Tx) error {
		if id := lease(ctx); id != "" {
			_, err := leases.Get(tx, ns, id)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m := toMessage(one)
	m.Spec = r.Container.Spec
	return &containersapi.CreateContainerResponse{Container: m}, nil
}

// Update changes the fields that the mask names, or all that can be changed.
func (c containerService) Update(ctx context.Context, r *containersapi.UpdateContainerRequest) (*containersapi.UpdateContainerResponse, error) {
	one, spec, err := containerOf(r.Container)
	if err != nil {
		return nil, err
	}
	var m *containersapi.Container
	err = c.s.update(ctx, func(tx *state.Tx, ns string) error {
		one, err := container.Update(tx, ns, one, spec, r.GetUpdateMask().GetPaths()...)
		if err == nil {
			m, err = containerMessage(tx, ns, one)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &containersapi.UpdateContainerResponse{Container: m}, nil
}

// Delete removes a container that has no task. Its snapshot stays.
func (c containerService) Delete(ctx context.Context, r *containersapi.DeleteContainerRequest) (*emptypb.Empty, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	t, err := task.Open(ctx, c.s.d, ns, r.ID)
	if err != nil {
		return nil, err
	}
	if err := t.Forget(ctx); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, c.s.collect(ctx, false)
}

func containerMessage(tx *state.Tx, ns string, one container.Container) (*containersapi.Container, error) {
	specs, err := container.PackedSpecs(tx, ns, []string{one.ID})
	if err != nil {
		return nil, err
	}
	return withSpec(one, specs[0])
}

func withSpec(one container.Container, packed container.PackedSpec) (*containersapi.Container, error) {
	m := toMessage(one)
	spec, err := packed.Unpack()
	if spec != nil {
		m.Spec = &anypb.Any{TypeUrl: cmp.Or(one.SpecType, specType), Value: spec}
	}
	return m, err
}

// toMessage is containerMessage without the spec.
func toMessage(one container.Container) *containersapi.Container {
	m := &containersapi.Container{
		ID: one.ID, Labels: one.Labels, Image: one.Image, Snapshotter: one.Snapshotter, SnapshotKey: one.SnapshotKey,
		Runtime: &containersapi.Container_Runtime{Name: one.Runtime.Name, Options: anyMessage(one.Runtime.Options)},
		Sandbox: one.Sandbox, CreatedAt: timestamppb.New(one.Created), UpdatedAt: timestamppb.New(one.Updated),
	}
	for key, value := range one.Extensions {
		if m.Extensions == nil {
			m.Extensions = map[string]*anypb.Any{}
		}
		m.Extensions[key] = anyMessage(&value)
	}
	return m
}

// containerOf gives the record that a message describes, and its spec.
func containerOf(m *containersapi.Container) (c container.Container, spec []byte, err error) {
	if m == nil {
		return c, nil, fmt.Errorf("no container in the request: %w", errdefs.ErrInvalidArgument)
	}
	c = container.Container{
		ID: m.ID, Labels: m.Labels, Image: m.Image, Snapshotter: m.Snapshotter, SnapshotKey: m.SnapshotKey, Sandbox: m.Sandbox,
		Runtime: container.Runtime{Name: m.GetRuntime().GetName(), Options: anyOf(m.GetRuntime().GetOptions())},
	}
	for key, value := range m.Extensions {
		if c.Extensions == nil {
			c.Extensions = map[string]container.Any{}
		}
		c.Extensions[key] = container.Any{Type: value.GetTypeUrl(), Value: value.GetValue()}
	}
	if s := m.Spec; s != nil {
		if spec = s.Value; spec == nil {
			spec = []byte{}
		}
		if s.TypeUrl != specType {
			c.SpecType = s.TypeUrl
		}
	}
	return c, spec, nil
}

// anyOf is nil for a message that says nothing, as clients send where they have no options.
func anyOf(m *anypb.Any) *container.Any {
	if m.GetTypeUrl() == "" && len(m.GetValue()) == 0 {
		return nil
	}
	return &container.Any{Type: m.TypeUrl, Value: m.Value}
}

func anyMessage(a *container.Any) *anypb.Any {
	if a == nil {
		return nil
	}
	return &anypb.Any{TypeUrl: a.Type, Value: a.Value}
}
