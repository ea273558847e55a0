// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"crypto/rand"
	"strings"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/filter"
	leases "ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/state"
)

type leaseService struct {
	leasesapi.UnimplementedLeasesServer
	s *Server
}

// Create records a lease.
func (l leaseService) Create(ctx context.Context, r *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	id := r.ID
	if id == "" { // ctr leases create
		id = strings.ToLower(rand.Text())
	}
	var made leases.Record
	err := l.s.update(ctx, func(tx *state.Tx, ns string) (err error) {
		made, err = leases.Create(tx, ns, id, r.Labels)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &leasesapi.CreateResponse{Lease: leaseMessage(made)}, nil
}

// Delete removes a lease. With sync, what only it held is gone when the answer comes.
func (l leaseService) Delete(ctx context.Context, r *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	err := l.s.update(ctx, func(tx *state.Tx, ns string) error { return leases.Remove(tx, ns, r.ID) })
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, l.s.collect(ctx, r.Sync)
}

// List gives the leases that a filter fits.
func (l leaseService) List(ctx context.Context, r *leasesapi.ListRequest) (*leasesapi.ListResponse, error) {
	f, err := filter.Parse(r.Filters...)
	if err != nil {
		return nil, err
	}
	answer := &leasesapi.ListResponse{}
	err = l.s.view(ctx, func(tx *state.Tx, ns string) (err error) {
		answer.Leases, err = filter.Select(f, filter.Readable(leases.All(tx, ns)), func(one leases.Record) filter.Fields {
			return filter.Lease(one.ID, one.Labels)
		}, sure(leaseMessage))
		return err
	})
	return answer, err
}

// AddResource lets a lease hold something.
func (l leaseService) AddResource(ctx context.Context, r *leasesapi.AddResourceRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, l.s.update(ctx, func(tx *state.Tx, ns string) error {
		if _, err := leases.Get(tx, ns, r.ID); err != nil {
			return err
		}
		return leases.Add(tx, ns, r.ID, leases.Resource{Type: r.GetResource().GetType(), ID: r.GetResource().GetID()})
	})
}

// DeleteResource takes something from a lease.
func (l leaseService) DeleteResource(ctx context.Context, r *leasesapi.DeleteResourceRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, l.s.update(ctx, func(tx *state.Tx, ns string) error {
		if _, err := leases.Get(tx, ns, r.ID); err != nil {
			return err
		}
		return leases.Drop(tx, ns, r.ID, leases.Resource{Type: r.GetResource().GetType(), ID: r.GetResource().GetID()})
	})
}

// ListResources gives what a lease holds.
func (l leaseService) ListResources(ctx context.Context, r *leasesapi.ListResourcesRequest) (*leasesapi.ListResourcesResponse, error) {
	answer := &leasesapi.ListResourcesResponse{}
	err := l.s.view(ctx, func(tx *state.Tx, ns string) error {
		one, err := leases.Get(tx, ns, r.ID)
		if err != nil {
			return err
		}
		all, err := one.Resources(tx, ns)
		answer.Resources = nil
		for _, r := range all {
			answer.Resources = append(answer.Resources, &leasesapi.Resource{ID: r.ID, Type: r.Type})
		}
		return err
	})
	return answer, err
}

func leaseMessage(l leases.Record) *leasesapi.Lease {
	return &leasesapi.Lease{ID: l.ID, CreatedAt: timestamppb.New(l.Created), Labels: l.Labels}
}
