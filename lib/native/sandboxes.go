// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"fmt"
	"slices"
	"strings"

	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/container"
	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/label"
	"ctrd.dev/ctrd/lib/sandbox"
	"ctrd.dev/ctrd/lib/state"
	"ctrd.dev/ctrd/lib/taskdir"
)

type sandboxStore struct {
	sandboxapi.UnimplementedStoreServer
	s *Server
}

// Create records a sandbox.
func (b sandboxStore) Create(ctx context.Context, r *sandboxapi.StoreCreateRequest) (*sandboxapi.StoreCreateResponse, error) {
	one, err := sandboxOf(r.GetSandbox())
	if err != nil {
		return nil, err
	}
	var made sandbox.Sandbox
	err = b.s.update(ctx, func(tx *state.Tx, ns string) (err error) {
		made, err = sandbox.Create(tx, ns, one)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &sandboxapi.StoreCreateResponse{Sandbox: sandboxMessage(made)}, nil
}

// Update changes the fields that are named, or all that can be changed: labels, extensions, spec and the runtime.
func (b sandboxStore) Update(ctx context.Context, r *sandboxapi.StoreUpdateRequest) (*sandboxapi.StoreUpdateResponse, error) {
	one, err := sandboxOf(r.GetSandbox())
	if err != nil {
		return nil, err
	}
	var now sandbox.Sandbox
	err = b.s.update(ctx, func(tx *state.Tx, ns string) (err error) {
		if now, err = sandbox.Get(tx, ns, one.ID); err != nil {
			return err
		}
		if err := changeSandbox(&now, one, r.GetFields()); err != nil {
			return err
		}
		now, err = sandbox.Put(tx, ns, now)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &sandboxapi.StoreUpdateResponse{Sandbox: sandboxMessage(now)}, nil
}

// changeSandbox takes fields of one into now.
func changeSandbox(now *sandbox.Sandbox, one sandbox.Sandbox, fields []string) error {
	if len(fields) == 0 {
		fields = []string{"labels", "extensions", "spec", "runtime"}
	}
	for _, f := range fields {
		key, isExtension := strings.CutPrefix(f, "extensions.")
		switch {
		case f == "labels" || strings.HasPrefix(f, "labels."):
			set, err := label.Mask(now.Labels, one.Labels, f)
			if err != nil {
				return err
			}
			now.Labels = set
		case isExtension:
			if now.Extensions == nil {
				now.Extensions = map[string]container.Any{}
			}
			now.Extensions[key] = one.Extensions[key]
		case f == "extensions":
			now.Extensions = one.Extensions
		case f == "spec":
			now.Spec = one.Spec
		case f == "runtime":
			now.Runtime = one.Runtime
		default:
			return fmt.Errorf("update sandbox %q: field %q cannot be changed: %w", now.ID, f, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Delete removes the record of a sandbox that does not run.
func (b sandboxStore) Delete(ctx context.Context, r *sandboxapi.StoreDeleteRequest) (*sandboxapi.StoreDeleteResponse, error) {
	err := b.s.update(ctx, func(tx *state.Tx, ns string) error {
		one, err := sandbox.Get(tx, ns, r.GetSandboxID())
		if err != nil {
			return err
		}
		if v, err := taskdir.LookPod(one.Dir(b.s.d, ns)); err != nil || v.Known {
			return fmt.Errorf("delete sandbox %q: it has not been shut down: %w", one.ID, errdefs.ErrFailedPrecondition)
		}
		return sandbox.Remove(tx, ns, one.ID)
	})
	return &sandboxapi.StoreDeleteResponse{}, err
}

// List gives the sandboxes that a filter fits.
func (b sandboxStore) List(ctx context.Context, r *sandboxapi.StoreListRequest) (*sandboxapi.StoreListResponse, error) {
	f, err := filter.Parse(r.GetFilters()...)
	if err != nil {
		return nil, err
	}
	answer := &sandboxapi.StoreListResponse{}
	err = b.s.view(ctx, func(tx *state.Tx, ns string) (err error) {
		answer.List, err = filter.Select(f, filter.Readable(sandbox.All(tx, ns)), func(one sandbox.Sandbox) filter.Fields {
			return filter.Container(one.ID, "", one.Runtime.Name, one.Labels)
		}, sure(sandboxMessage))
		return err
	})
	return answer, err
}

// Get gives one sandbox.
func (b sandboxStore) Get(ctx context.Context, r *sandboxapi.StoreGetRequest) (*sandboxapi.StoreGetResponse, error) {
	one, err := b.s.sandbox(ctx, r.GetSandboxID())
	if err != nil {
		return nil, err
	}
	return &sandboxapi.StoreGetResponse{Sandbox: sandboxMessage(one)}, nil
}

// sandbox reads one record.
func (s *Server) sandbox(ctx context.Context, id string) (one sandbox.Sandbox, err error) {
	err = s.view(ctx, func(tx *state.Tx, ns string) error {
		one, err = sandbox.Get(tx, ns, id)
		return err
	})
	return one, err
}

func sandboxMessage(one sandbox.Sandbox) *types.Sandbox {
	m := &types.Sandbox{
		SandboxID: one.ID, Runtime: &types.Sandbox_Runtime{Name: one.Runtime.Name, Options: anyMessage(one.Runtime.Options)},
		Spec: anyMessage(one.Spec), Labels: one.Labels, Sandboxer: one.Sandboxer,
		CreatedAt: timestamppb.New(one.Created), UpdatedAt: timestamppb.New(one.Updated),
	}
	for key, value := range one.Extensions {
		if m.Extensions == nil {
			m.Extensions = map[string]*anypb.Any{}
		}
		m.Extensions[key] = anyMessage(&value)
	}
	return m
}

// sandboxOf gives the record that a message describes.
func sandboxOf(m *types.Sandbox) (one sandbox.Sandbox, err error) {
	if m == nil {
		return one, fmt.Errorf("no sandbox in the request: %w", errdefs.ErrInvalidArgument)
	}
	one = sandbox.Sandbox{
		ID: m.SandboxID, Labels: m.Labels, Sandboxer: m.Sandboxer, Spec: anyOf(m.Spec),
		Runtime: container.Runtime{Name: m.GetRuntime().GetName(), Options: anyOf(m.GetRuntime().GetOptions())},
	}
	if err := label.Check(one.Labels); err != nil {
		return one, fmt.Errorf("sandbox %q: %w", one.ID, err)
	}
	for key, value := range m.Extensions {
		if one.Extensions == nil {
			one.Extensions = map[string]container.Any{}
		}
		one.Extensions[key] = container.Any{Type: value.GetTypeUrl(), Value: slices.Clone(value.GetValue())}
	}
	return one, nil
}
