// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cgroup"
	"ctrd.dev/ctrd/lib/pod"
)

// baseLabels are those of every metric, as the kubelet's own metrics of containers have them (cadvisor).
var baseLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// metric is one of the metrics that cadvisor has of containers or pods, under its name.
type metric[T any] struct {
	name, help string
	kind       runtimeapi.MetricType
	labels     []string // beyond baseLabels
	of         func(T) []point
}

// point is a value with the values of the metric's own labels.
type point struct {
	value  uint64
	labels []string
}

func one(n uint64) []point { return []point{{value: n}} }

// ListMetricDescriptors tells which metrics ListPodSandboxMetrics has.
func (r runtimeService) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	answer := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, m := range containerMetrics {
		answer.Descriptors = append(answer.Descriptors, descriptor(m))
	}
	for _, m := range podMetrics {
		answer.Descriptors = append(answer.Descriptors, descriptor(m))
	}
	return answer, nil
}

func descriptor[T any](m metric[T]) *runtimeapi.MetricDescriptor {
	return &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: slices.Concat(baseLabels, m.labels)}
}

// messages are what the metrics of a table say of x.
func messages[T any](table []metric[T], x T, base []string) (all []*runtimeapi.Metric) {
	for _, m := range table {
		for _, p := range m.of(x) {
			all = append(all, &runtimeapi.Metric{Name: m.name, MetricType: m.kind, LabelValues: slices.Concat(base, p.labels), Value: value(p.value)})
		}
	}
	return all
}

// ListPodSandboxMetrics measures all pods that are ready and their running containers.
func (r runtimeService) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	all, err := r.listMetrics(ctx)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: all}, nil
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in any number of messages.
func (r runtimeService) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	all, err := r.listMetrics(stream.Context())
	if err != nil {
		return err
	}
	return sendAll(all, func(some []*runtimeapi.PodSandboxMetrics) error {
		return stream.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: some})
	})
}

func (r runtimeService) listMetrics(ctx context.Context) (all []*runtimeapi.PodSandboxMetrics, err error) {
	pods, err := r.s.pods().List(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := r.containersByPod(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := r.s.layers(ctx)
	if err != nil {
		return nil, err
	}
	for _, st := range pods {
		if !st.Ready {
			continue
		}
		m := &runtimeapi.PodSandboxMetrics{PodSandboxId: st.ID}
		if links, ok := linksOf(st, containers[st.ID]); ok {
			m.Metrics = messages(podMetrics, links, []string{"", st.ID, "", "", st.Namespace, st.Name})
		}
		for _, c := range containers[st.ID] {
			if c.State != pod.Running {
				continue
			}
			x, err := r.s.measure(ctx, c, layers)
			if err != nil {
				continue // it has ended meanwhile
			}
			base := []string{c.Name, c.ID, c.Image, strings.Join([]string{"k8s", c.Name, st.Name, st.Namespace, st.UID}, "_"), st.Namespace, st.Name}
			m.ContainerMetrics = append(m.ContainerMetrics, &runtimeapi.ContainerMetrics{ContainerId: c.ID, Metrics: messages(containerMetrics, x, base)})
		}
		all = append(all, m)
	}
	return all, nil
}

// measurement is what is measured of a container.
type measurement struct {
	cgroup.Detail
	now     time.Time
	started time.Time
	oom     uint64
	procs   processes
	layer   measured
	fs      unix.Statfs_t
	device  string // that the file system is on
}

func (s *Server) measure(ctx context.Context, c *pod.ContainerStatus, layers map[[2]string]layer) (x measurement, err error) {
	x.now, x.started = time.Now(), c.Started
	if x.Detail, err = cgroup.MeasureDetail(c.Cgroup); err != nil {
		return x, err
	}
	if x.oom, err = cgroup.OOMKills(c.Cgroup); err != nil {
		return x, err
	}
	pids, err := cgroup.Pids(c.Cgroup)
	if err != nil {
		return x, err
	}
	x.procs = countProcesses(pids, c.PID)
	if l, ok := layers[[2]string{c.Snapshotter, c.SnapshotKey}]; ok {
		x.layer = s.sizeOf(ctx, l.sn, l.id)
		dir := s.snapshotDir(l.sn)
		if err := unix.Statfs(dir, &x.fs); err == nil {
			x.device = deviceOf(dir)
		}
	}
	return x, nil
}
