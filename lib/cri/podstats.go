// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/pod"
)

// mainInterface is what CNI calls the interface of a pod.
const mainInterface = "eth0"

// PodSandboxStats tells what a pod that is ready uses.
func (r runtimeService) PodSandboxStats(ctx context.Context, q *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	if err := required("pod_sandbox_id", q.GetPodSandboxId()); err != nil {
		return nil, err
	}
	st, err := r.s.pods().Status(ctx, q.GetPodSandboxId())
	if err == nil && !st.Ready {
		err = fmt.Errorf("pod %q is not ready: %w", st.ID, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, err
	}
	all, err := r.podStats(ctx, []*pod.Status{&st})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: all[0]}, nil
}

// ListPodSandboxStats tells what the pods use that are ready and that the filter fits.
func (r runtimeService) ListPodSandboxStats(ctx context.Context, q *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	all, err := r.listPodStats(ctx, q.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: all}, nil
}

// StreamPodSandboxStats is ListPodSandboxStats in any number of messages.
func (r runtimeService) StreamPodSandboxStats(q *runtimeapi.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	all, err := r.listPodStats(stream.Context(), q.GetFilter())
	if err != nil {
		return err
	}
	return sendAll(all, func(some []*runtimeapi.PodSandboxStats) error {
		return stream.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: some})
	})
}

func (r runtimeService) listPodStats(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	list, err := r.s.pods().List(ctx)
	if err != nil {
		return nil, err
	}
	var pods []*pod.Status
	for _, st := range list {
		if st.Ready && strings.HasPrefix(st.ID, f.GetId()) && selects(f.GetLabelSelector(), st.Labels) {
			pods = append(pods, st)
		}
	}
	return r.podStats(ctx, pods)
}

// podStats measures pods: the cgroup that is the parent of their containers'; of a pod without one, its containers.
func (r runtimeService) podStats(ctx context.Context, pods []*pod.Status) (all []*runtimeapi.PodSandboxStats, err error) {
	containers, err := r.containersByPod(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := r.s.layers(ctx)
	if err != nil {
		return nil, err
	}
	for _, st := range pods {
		linux := &runtimeapi.LinuxPodSandboxStats{}
		linux.Containers, err = r.s.statsOf(ctx, containers[st.ID], layers, func(*pod.ContainerStatus) bool { return true })
		if err != nil {
			return nil, err
		}
		r.s.measurePod(st, linux, containers[st.ID])
		all = append(all, &runtimeapi.PodSandboxStats{
			Attributes: &runtimeapi.PodSandboxAttributes{Id: st.ID, Metadata: podMetadata(st.Config), Labels: st.Labels, Annotations: st.Annotations},
			Linux:      linux,
		})
	}
	return all, nil
}

// containersByPod lists the containers by the ids of their pods.
func (r runtimeService) containersByPod(ctx context.Context) (map[string][]*pod.ContainerStatus, error) {
	list, err := r.s.pods().ListContainers(ctx)
	all := make(map[string][]*pod.ContainerStatus, len(list))
	for _, c := range list {
		all[c.Pod] = append(all[c.Pod], c)
	}
	return all, err
}

// measurePod fills in what a pod uses as a whole; containers are its own. What cannot be measured is left out: it may
// be ending.
func (s *Server) measurePod(st *pod.Status, m *runtimeapi.LinuxPodSandboxStats, containers []*pod.ContainerStatus) {
	now := time.Now()
	m.Process = &runtimeapi.ProcessUsage{Timestamp: now.UnixNano(), ProcessCount: value(0)}
	d, err := cgroup.MeasureUse(st.Cgroup)
	if st.Cgroup == "" || err != nil {
		d = sumOf(m.Containers)
	} else if n, err := cgroup.Processes(st.Cgroup); err == nil {
		m.Process.ProcessCount = value(uint64(n))
	}
	m.Cpu, m.Memory, m.Io = s.cpuMessage("pod "+st.ID, st.Created, now, d), memoryMessage(now, d), ioMessage(now, d)
	if links, ok := linksOf(st, containers); ok {
		m.Network = networkMessage(now, links)
	}
}

// sumOf adds up containers. Pressure has no sum.
func sumOf(all []*runtimeapi.ContainerStats) (d cgroup.Detail) {
	for _, c := range all {
		d.CPU.Total += c.GetCpu().GetUsageCoreNanoSeconds().GetValue()
		d.Memory.Usage += c.GetMemory().GetUsageBytes().GetValue()
		d.Memory.InactiveFile += c.GetMemory().GetUsageBytes().GetValue() - c.GetMemory().GetWorkingSetBytes().GetValue()
		d.RSS += c.GetMemory().GetRssBytes().GetValue()
		d.PageFaults += c.GetMemory().GetPageFaults().GetValue()
		d.MajorFaults += c.GetMemory().GetMajorPageFaults().GetValue()
	}
	return d
}

func networkMessage(now time.Time, links []link) *runtimeapi.NetworkUsage {
	m := &runtimeapi.NetworkUsage{Timestamp: now.UnixNano()}
	for _, l := range links {
		one := &runtimeapi.NetworkInterfaceUsage{
			Name: l.name, RxBytes: value(l.rx.bytes), RxErrors: value(l.rx.errors), TxBytes: value(l.tx.bytes), TxErrors: value(l.tx.errors),
		}
		if l.name == mainInterface {
			m.DefaultInterface = one
		} else {
			m.Interfaces = append(m.Interfaces, one)
		}
	}
	return m
}
