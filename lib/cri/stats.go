// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/pod"
	"ctrd.dev/ctrd/lib/snapshot"
	"ctrd.dev/ctrd/lib/state"
)

// ContainerStats tells what a container uses. One that does not run uses its writable layer alone.
func (r runtimeService) ContainerStats(ctx context.Context, q *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	if err := required("container_id", q.GetContainerId()); err != nil {
		return nil, err
	}
	st, err := r.s.pods().ContainerStatus(ctx, q.GetContainerId())
	if err != nil {
		return nil, err
	}
	layers, err := r.s.layers(ctx)
	if err != nil {
		return nil, err
	}
	m, err := r.s.containerStats(ctx, &st, layers)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: m}, nil
}

// ListContainerStats tells what the running containers use that the filter fits.
func (r runtimeService) ListContainerStats(ctx context.Context, q *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	all, err := r.listContainerStats(ctx, q.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: all}, nil
}

// StreamContainerStats is ListContainerStats in any number of messages.
func (r runtimeService) StreamContainerStats(q *runtimeapi.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	all, err := r.listContainerStats(stream.Context(), q.GetFilter())
	if err != nil {
		return err
	}
	return sendAll(all, func(some []*runtimeapi.ContainerStats) error {
		return stream.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: some})
	})
}

func (r runtimeService) listContainerStats(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	list, err := r.s.pods().ListContainers(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := r.s.layers(ctx)
	if err != nil {
		return nil, err
	}
	return r.s.statsOf(ctx, list, layers, func(st *pod.ContainerStatus) bool {
		return strings.HasPrefix(st.ID, f.GetId()) && strings.HasPrefix(st.Pod, f.GetPodSandboxId()) && selects(f.GetLabelSelector(), st.Labels)
	})
}

// statsOf measures those of some containers that run and that wanted chooses.
func (s *Server) statsOf(ctx context.Context, list []*pod.ContainerStatus, layers map[[2]string]layer, wanted func(*pod.ContainerStatus) bool) (all []*runtimeapi.ContainerStats, err error) {
	for _, st := range list {
		if st.State != pod.Running || !wanted(st) {
			continue
		}
		m, err := s.containerStats(ctx, st, layers)
		if errdefs.IsNotFound(err) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// layer is a writable layer.
type layer struct {
	sn *snapshot.Snapshotter
	id snapshot.ID
}

// layers gives the writable layers of the CRI's namespace, by the names of snapshotter and snapshot.
func (s *Server) layers(ctx context.Context) (map[[2]string]layer, error) {
	var all map[[2]string]layer
	err := s.d.View(ctx, func(tx *state.Tx) error {
		all = map[[2]string]layer{}
		for _, sn := range snapshot.Snapshotters() {
			for one, err := range sn.All(tx, Namespace) {
				if err == nil && one.Kind == snapshot.Active {
					all[[2]string{sn.Name(), one.Key}] = layer{sn, one.ID}
				}
			}
		}
		return nil
	})
	return all, err
}

// containerStats measures a container.
func (s *Server) containerStats(ctx context.Context, st *pod.ContainerStatus, layers map[[2]string]layer) (*runtimeapi.ContainerStats, error) {
	m := &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{
		Id: st.ID, Metadata: &runtimeapi.ContainerMetadata{Name: st.Name, Attempt: st.Attempt}, Labels: st.Labels, Annotations: st.Annotations,
	}}
	if l, ok := layers[[2]string{st.Snapshotter, st.SnapshotKey}]; ok {
		m.WritableLayer = s.filesystem(l.sn, s.sizeOf(ctx, l.sn, l.id))
	}
	if st.State != pod.Running {
		return m, nil
	}
	d, err := cgroup.MeasureUse(st.Cgroup)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	m.Cpu, m.Memory, m.Io = s.cpuMessage(st.ID, st.Started, now, d), memoryMessage(now, d), ioMessage(now, d)
	m.Swap = &runtimeapi.SwapUsage{Timestamp: now.UnixNano(), SwapUsageBytes: value(d.Memory.Swap)}
	if d.SwapLimit > 0 {
		m.Swap.SwapAvailableBytes = value(d.SwapLimit - min(d.SwapLimit, d.Memory.Swap))
	}
	return m, nil
}

func value(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func (s *Server) cpuMessage(key string, begun, now time.Time, d cgroup.Detail) *runtimeapi.CpuUsage {
	m := &runtimeapi.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: value(d.CPU.Total), Psi: psiMessage(d, d.CPUPressure)}
	c := s.config().CRI
	if rate, ok := s.rates.of(key, begun, now, d.CPU.Total, time.Duration(c.StatsCollectPeriod), time.Duration(c.StatsRetentionPeriod)); ok {
		m.UsageNanoCores = value(rate)
	}
	return m
}

func memoryMessage(now time.Time, d cgroup.Detail) *runtimeapi.MemoryUsage {
	m := &runtimeapi.MemoryUsage{
		Timestamp: now.UnixNano(), WorkingSetBytes: value(d.Memory.Working()), UsageBytes: value(d.Memory.Usage), RssBytes: value(d.RSS),
		PageFaults: value(d.PageFaults), MajorPageFaults: value(d.MajorFaults), Psi: psiMessage(d, d.MemPressure),
	}
	if limit := d.Memory.Limit; limit > 0 {
		m.AvailableBytes = value(limit - min(limit, d.Memory.Working()))
	}
	return m
}

func ioMessage(now time.Time, d cgroup.Detail) *runtimeapi.IoUsage {
	return &runtimeapi.IoUsage{Timestamp: now.UnixNano(), Psi: psiMessage(d, d.IOPressure)}
}

// psiMessage is nil where the kernel tells no pressure.
func psiMessage(d cgroup.Detail, p cgroup.Pressure) *runtimeapi.PsiStats {
	if !d.HasPressures {
		return nil
	}
	stall := func(s cgroup.Stall) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: s.Total, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &runtimeapi.PsiStats{Full: stall(p.Full), Some: stall(p.Some)}
}
