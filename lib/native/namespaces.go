// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"

	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"ctrd.dev/ctrd/lib/filter"
	spaces "ctrd.dev/ctrd/lib/namespace"
	"ctrd.dev/ctrd/lib/state"
)

type namespaceService struct {
	namespacesapi.UnimplementedNamespacesServer
	s *Server
}

// Get gives one namespace. One that nobody has used yet is there, and has no labels.
func (n namespaceService) Get(ctx context.Context, r *namespacesapi.GetNamespaceRequest) (*namespacesapi.GetNamespaceResponse, error) {
	var one spaces.Namespace
	err := n.s.d.View(ctx, func(tx *state.Tx) (err error) {
		one, err = spaces.Get(tx, r.Name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &namespacesapi.GetNamespaceResponse{Namespace: namespaceMessage(one)}, nil
}

// List gives the namespaces that a filter fits.
func (n namespaceService) List(ctx context.Context, r *namespacesapi.ListNamespacesRequest) (*namespacesapi.ListNamespacesResponse, error) {
	f, err := filter.Parse(r.Filter)
	if err != nil {
		return nil, err
	}
	answer := &namespacesapi.ListNamespacesResponse{}
	err = n.s.d.View(ctx, func(tx *state.Tx) (err error) {
		answer.Namespaces, err = filter.Select(f, filter.Readable(spaces.All(tx)), func(one spaces.Namespace) filter.Fields {
			return filter.Namespace(one.Name, one.Labels)
		}, sure(namespaceMessage))
		return err
	})
	return answer, err
}

// Create makes a namespace.
func (n namespaceService) Create(ctx context.Context, r *namespacesapi.CreateNamespaceRequest) (*namespacesapi.CreateNamespaceResponse, error) {
	var one spaces.Namespace
	err := n.s.d.Update(ctx, nil, func(tx *state.Tx) (err error) {
		one, err = spaces.Create(tx, r.GetNamespace().GetName(), r.GetNamespace().GetLabels())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &namespacesapi.CreateNamespaceResponse{Namespace: namespaceMessage(one)}, nil
}

// Update changes the labels that the mask names, or all. A namespace that is not there is made.
func (n namespaceService) Update(ctx context.Context, r *namespacesapi.UpdateNamespaceRequest) (*namespacesapi.UpdateNamespaceResponse, error) {
	var one spaces.Namespace
	err := n.s.d.Update(ctx, nil, func(tx *state.Tx) (err error) {
		one, err = spaces.Update(tx, r.GetNamespace().GetName(), r.GetNamespace().GetLabels(), r.GetUpdateMask().GetPaths()...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &namespacesapi.UpdateNamespaceResponse{Namespace: namespaceMessage(one)}, nil
}

// Delete removes an empty namespace.
func (n namespaceService) Delete(ctx context.Context, r *namespacesapi.DeleteNamespaceRequest) (*emptypb.Empty, error) {
	err := n.s.d.Update(ctx, nil, func(tx *state.Tx) error { return spaces.Remove(tx, r.Name) })
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func namespaceMessage(one spaces.Namespace) *namespacesapi.Namespace {
	return &namespacesapi.Namespace{Name: one.Name, Labels: one.Labels}
}
