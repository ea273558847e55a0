// SPDX-License-Identifier: Apache-2.0

package native

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"strings"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/filter"
	"ctrd.dev/ctrd/lib/label"
	leases "ctrd.dev/ctrd/lib/lease"
	"ctrd.dev/ctrd/lib/mount"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// labelTarget names the committed snapshot that an active one is to become: where that is there, nobody needs to fill it.
const labelTarget = "containerd.io/snapshot.ref"

type snapshotService struct {
	snapshotsapi.UnimplementedSnapshotsServer
	s *Server
}

// snapshotter finds what a request names. One that is not there is as a plugin that containerd has not.
func snapshotter(name string) (*snapshot.Snapshotter, error) {
	if name == "" {
		return nil, fmt.Errorf("a request names its snapshotter: %w", errdefs.ErrInvalidArgument)
	}
	if name, ok := strings.CutPrefix(name, proxied); ok {
		return snapshot.Named(name)
	}
	return snapshot.Named(name)
}

// proxied begins another name of each snapshotter: ctrd-overlayfs is overlayfs to a containerd which has ctrd's as a proxy plugin,
// and one of its own that is called overlayfs.
const proxied = "ctrd-"

// proxiedNamespace has the snapshots of such a containerd, whose keys begin with its own namespaces, and which names none
// when it collects garbage. There is one for a root: it removes what it does not know.
const proxiedNamespace = "containerd"

// whose gives the context of a call the namespace in which the snapshots of a snapshotter of this name are.
func whose(ctx context.Context, name string) context.Context {
	if !strings.HasPrefix(name, proxied) {
		return ctx
	}
	md, _ := metadata.FromIncomingContext(ctx)
	md = md.Copy()
	md.Set(namespaceKey, proxiedNamespace)
	return metadata.NewIncomingContext(ctx, md)
}

// kept gives the labels of a snapshot of a client that has the records itself, and removes what it needs no more: ctrd's
// collections leave it alone.
func kept(name string, labels map[string]string) map[string]string {
	if !strings.HasPrefix(name, proxied) {
		return labels
	}
	all := map[string]string{label.Root: "proxy"}
	maps.Copy(all, labels)
	return all
}

// Prepare makes an active snapshot, and tells how to mount it.
func (s snapshotService) Prepare(ctx context.Context, r *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	ctx = whose(ctx, r.Snapshotter)
	mounts, err := s.make(ctx, r.Snapshotter, snapshot.Info{Key: r.Key, Kind: snapshot.Active, Parent: r.Parent, Labels: kept(r.Snapshotter, r.Labels), Client: true})
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.PrepareSnapshotResponse{Mounts: mounts}, nil
}

// View makes a view of a committed snapshot, and tells how to mount it.
func (s snapshotService) View(ctx context.Context, r *snapshotsapi.ViewSnapshotRequest) (*snapshotsapi.ViewSnapshotResponse, error) {
	ctx = whose(ctx, r.Snapshotter)
	mounts, err := s.make(ctx, r.Snapshotter, snapshot.Info{Key: r.Key, Kind: snapshot.View, Parent: r.Parent, Labels: kept(r.Snapshotter, r.Labels), Client: true})
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.ViewSnapshotResponse{Mounts: mounts}, nil
}

func (s snapshotService) make(ctx context.Context, name string, want snapshot.Info) ([]*types.Mount, error) {
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	sn, err := snapshotter(name)
	if err != nil {
		return nil, err
	}
	if err := label.Check(want.Labels); err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", want.Key, err)
	}
	if target := want.Labels[labelTarget]; target != "" {
		if err := s.holdExisting(ctx, sn, ns, target); err != nil {
			return nil, err
		}
	}
	_, err = sn.Create(ctx, s.s.d, ns, want, func(tx *state.Tx) error { return s.hold(ctx, tx, sn, ns, want.Key) })
	if errdefs.IsAlreadyExists(err) {
		if held := s.holdExisting(ctx, sn, ns, want.Key); held != nil && !errdefs.IsAlreadyExists(held) {
			return nil, held
		}
	}
	if err != nil {
		return nil, err
	}
	return s.mounts(ctx, sn, want.Key)
}

// hold lets the lease of a call hold a snapshot.
func (s snapshotService) hold(ctx context.Context, tx *state.Tx, sn *snapshot.Snapshotter, ns, key string) error {
	return leases.Add(tx, ns, lease(ctx), leases.Resource{Type: leases.SnapshotType(sn.Name()), ID: key})
}

// holdExisting is errdefs.ErrAlreadyExists for a snapshot that is there, which the lease of the call holds then.
func (s snapshotService) holdExisting(ctx context.Context, sn *snapshot.Snapshotter, ns, key string) error {
	there := func(tx *state.Tx) error {
		_, err := sn.Get(tx, ns, key)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("snapshot %q in namespace %q: %w", key, ns, errdefs.ErrAlreadyExists)
		}
		return err
	}
	err := s.s.d.View(ctx, there)
	if !errdefs.IsAlreadyExists(err) || lease(ctx) == "" {
		return err
	}
	var now error
	err = s.s.d.Update(ctx, nil, func(tx *state.Tx) error {
		if now = there(tx); errdefs.IsAlreadyExists(now) {
			return s.hold(ctx, tx, sn, ns, key)
		}
		return now
	})
	return cmp.Or(err, now)
}

// Mounts tells how to mount a snapshot that is not committed.
func (s snapshotService) Mounts(ctx context.Context, r *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	ctx = whose(ctx, r.Snapshotter)
	sn, err := snapshotter(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := s.mounts(ctx, sn, r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.MountsResponse{Mounts: mounts}, nil
}

func (s snapshotService) mounts(ctx context.Context, sn *snapshot.Snapshotter, key string) (list []*types.Mount, err error) {
	err = s.s.view(ctx, func(tx *state.Tx, ns string) error {
		all, err := sn.Mounts(ctx, tx, s.s.d, ns, key)
		list = mountMessages(all)
		return err
	})
	return list, err
}

// Commit makes a committed snapshot of an active one, on top of the parent that the request names if it was prepared
// without any. As in containerd, nobody looks whether it is mounted.
func (s snapshotService) Commit(ctx context.Context, r *snapshotsapi.CommitSnapshotRequest) (*emptypb.Empty, error) {
	ctx = whose(ctx, r.Snapshotter)
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	sn, err := snapshotter(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	if err := label.Check(r.Labels); err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", r.Name, err)
	}
	kind := leases.SnapshotType(sn.Name())
	o := snapshot.CommitOptions{Parent: r.Parent, Labels: kept(r.Snapshotter, r.Labels), Mounted: true}
	_, err = sn.Seal(ctx, s.s.d, ns, r.Name, r.Key, o, func(tx *state.Tx, _ snapshot.Info) error {
		if err := leases.Drop(tx, ns, lease(ctx), leases.Resource{Type: kind, ID: r.Key}); err != nil {
			return err
		}
		return leases.Add(tx, ns, lease(ctx), leases.Resource{Type: kind, ID: r.Name})
	})
	if errdefs.IsAlreadyExists(err) {
		if held := s.holdExisting(ctx, sn, ns, r.Name); held != nil && !errdefs.IsAlreadyExists(held) {
			return nil, held
		}
	}
	return &emptypb.Empty{}, err
}

// Remove removes a snapshot that no other stands on.
func (s snapshotService) Remove(ctx context.Context, r *snapshotsapi.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	ctx = whose(ctx, r.Snapshotter)
	ns, err := namespace(ctx)
	if err != nil {
		return nil, err
	}
	sn, err := snapshotter(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	err = sn.Delete(ctx, s.s.d, ns, r.Key, func(tx *state.Tx, _ snapshot.Info) error {
		return leases.Drop(tx, ns, lease(ctx), leases.Resource{Type: leases.SnapshotType(sn.Name()), ID: r.Key})
	})
	s.s.d.EmptyTrash()
	if err != nil {
		return nil, fmt.Errorf("remove: %w", err)
	}
	return &emptypb.Empty{}, nil
}

// get finds the snapshotter and the snapshot that a request names.
func (s snapshotService) get(ctx context.Context, name, key string) (sn *snapshot.Snapshotter, one snapshot.Info, err error) {
	if sn, err = snapshotter(name); err != nil {
		return nil, one, err
	}
	err = s.s.view(ctx, func(tx *state.Tx, ns string) (err error) {
		one, err = sn.Get(tx, ns, key)
		return err
	})
	return sn, one, err
}

// Stat tells of one snapshot.
func (s snapshotService) Stat(ctx context.Context, r *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	ctx = whose(ctx, r.Snapshotter)
	_, one, err := s.get(ctx, r.Snapshotter, r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.StatSnapshotResponse{Info: snapshotMessage(one)}, nil
}

// Update changes the labels that the mask names, or all.
func (s snapshotService) Update(ctx context.Context, r *snapshotsapi.UpdateSnapshotRequest) (*snapshotsapi.UpdateSnapshotResponse, error) {
	ctx = whose(ctx, r.Snapshotter)
	sn, err := snapshotter(r.Snapshotter)
	if err != nil {
		return nil, err
	}
	var one snapshot.Info
	err = s.s.update(ctx, func(tx *state.Tx, ns string) (err error) {
		one, err = sn.Update(tx, ns, r.GetInfo().GetName(), r.GetInfo().GetLabels(), r.GetUpdateMask().GetPaths()...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.UpdateSnapshotResponse{Info: snapshotMessage(one)}, nil
}

// List sends the snapshots that a filter fits.
func (s snapshotService) List(r *snapshotsapi.ListSnapshotsRequest, stream snapshotsapi.Snapshots_ListServer) error {
	ctx := whose(stream.Context(), r.Snapshotter)
	sn, err := snapshotter(r.Snapshotter)
	if err != nil {
		return err
	}
	f, err := filter.Parse(r.Filters...)
	if err != nil {
		return err
	}
	var all []*snapshotsapi.Info
	err = s.s.view(ctx, func(tx *state.Tx, ns string) (err error) {
		all, err = filter.Select(f, filter.Readable(sn.All(tx, ns)), func(one snapshot.Info) filter.Fields {
			return filter.Snapshot(string(one.Kind), one.Key, one.Parent, one.Labels)
		}, sure(snapshotMessage))
		return err
	})
	if err != nil {
		return err
	}
	return inBlocks(all, func(some []*snapshotsapi.Info) error {
		return stream.Send(&snapshotsapi.ListSnapshotsResponse{Info: some})
	})
}

// Usage tells what a snapshot occupies by itself.
func (s snapshotService) Usage(ctx context.Context, r *snapshotsapi.UsageRequest) (*snapshotsapi.UsageResponse, error) {
	ctx = whose(ctx, r.Snapshotter)
	sn, one, err := s.get(ctx, r.Snapshotter, r.Key)
	if err != nil {
		return nil, err
	}
	if one.Kind == snapshot.Active {
		if one.Size, one.Inodes, err = sn.Usage(ctx, s.s.d, one.ID); err != nil {
			return nil, err
		}
	}
	return &snapshotsapi.UsageResponse{Size: one.Size, Inodes: one.Inodes}, nil
}

// Cleanup removes directories that no record names.
func (s snapshotService) Cleanup(ctx context.Context, r *snapshotsapi.CleanupRequest) (*emptypb.Empty, error) {
	ctx = whose(ctx, r.Snapshotter)
	if _, err := snapshotter(r.Snapshotter); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, s.s.collect(ctx, true)
}

var kinds = map[snapshot.Kind]snapshotsapi.Kind{
	snapshot.View: snapshotsapi.Kind_VIEW, snapshot.Active: snapshotsapi.Kind_ACTIVE, snapshot.Committed: snapshotsapi.Kind_COMMITTED,
}

func snapshotMessage(one snapshot.Info) *snapshotsapi.Info {
	return &snapshotsapi.Info{
		Name: one.Key, Parent: one.Parent, Kind: kinds[one.Kind], Labels: one.Labels,
		CreatedAt: timestamppb.New(one.Created), UpdatedAt: timestamppb.New(one.Updated),
	}
}

func mountMessages(all []mount.Mount) (list []*types.Mount) {
	for _, m := range all {
		list = append(list, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return list
}
