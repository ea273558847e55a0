// SPDX-License-Identifier: Apache-2.0

package cri_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestStats(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	pod, config := h.pod(t, "a")
	id := h.container(t, pod, config, "one", "dd if=/dev/zero of=/file bs=1M count=4; while :; do :; done", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
	})
	ended := h.container(t, pod, config, "two", "true", nil)
	until(t, "the end of the second", func() bool {
		st, err := h.ContainerStatus(h.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: ended})
		return err == nil && st.Status.State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	if r, err := h.ContainerStats(h.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id}); err != nil || r.Stats.GetCpu().GetUsageNanoCores() == nil {
		t.Errorf("the first answer has no rate of processor time: %v, %v", r, err)
	}
	var s *runtimeapi.ContainerStats
	until(t, "a rate of processor time", func() bool {
		r, err := h.ContainerStats(h.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		s = r.Stats
		return s.GetCpu().GetUsageNanoCores().GetValue() > 0
	})
	if s.Attributes.Id != id || s.Attributes.Metadata.Name != "one" || s.Attributes.Labels["container"] != "one" || s.Cpu.UsageCoreNanoSeconds.Value == 0 ||
		s.Memory.WorkingSetBytes.Value == 0 || s.Memory.AvailableBytes.GetValue() == 0 || s.WritableLayer.GetFsId().GetMountpoint() == "" {
		t.Errorf("%v", s)
	}
	until(t, "a new measurement of the writable layer", func() bool {
		r, err := h.ContainerStats(h.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
		return err == nil && r.Stats.WritableLayer.UsedBytes.Value >= 4<<20
	})
	if r, err := h.ContainerStats(h.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: ended}); err != nil || r.Stats.Cpu != nil || r.Stats.WritableLayer == nil {
		t.Errorf("of a container that has ended: %v, %v", r, err)
	}
	for label, want := range map[string]int{"one": 1, "two": 0} {
		f := &runtimeapi.ContainerStatsFilter{PodSandboxId: pod, LabelSelector: map[string]string{"container": label}}
		r, err := h.ListContainerStats(h.ctx, &runtimeapi.ListContainerStatsRequest{Filter: f})
		if err != nil || len(r.Stats) != want {
			t.Errorf("%s: %v, %v", label, r, err)
		}
		st, err := h.StreamContainerStats(h.ctx, &runtimeapi.StreamContainerStatsRequest{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for {
			m, err := st.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			n += len(m.ContainerStats)
		}
		if n != want {
			t.Errorf("%s: %d in a stream", label, n)
		}
	}
	p, err := h.PodSandboxStats(h.ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: pod})
	if err != nil || p.Stats.Attributes.Labels["pod"] != "a" || len(p.Stats.Linux.Containers) != 1 || p.Stats.Linux.Cpu.UsageCoreNanoSeconds.Value == 0 {
		t.Errorf("%v, %v", p, err)
	}
	m, err := h.ListPodSandboxMetrics(h.ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil || len(m.PodMetrics) != 1 || len(m.PodMetrics[0].ContainerMetrics) != 1 || len(m.PodMetrics[0].ContainerMetrics[0].Metrics) < 30 {
		t.Errorf("%v, %v", m, err)
	}
}

// The kubelet tells what a pod may use as a whole; it is kept with the pod.
func TestPodResources(t *testing.T) {
	h := newHost(t)
	pod, _ := h.pod(t, "a")
	bounds := &runtimeapi.LinuxContainerResources{CpuShares: 77, MemoryLimitInBytes: 64 << 20}
	if _, err := h.UpdatePodSandboxResources(h.ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: bounds}); err != nil {
		t.Fatal(err)
	}
	st, err := h.PodSandboxStatus(h.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err != nil || !strings.Contains(st.Info["info"], `"cpu_shares":77`) {
		t.Errorf("%v, %v", st, err)
	}
	bounds.MemoryLimitInBytes = -1
	_, err = h.UpdatePodSandboxResources(h.ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: bounds})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "memory_limit_in_bytes") {
		t.Error(err)
	}
	for _, call := range []func() error{
		func() error { _, err := h.CheckpointPod(h.ctx, &runtimeapi.CheckpointPodRequest{}); return err },
		func() error { _, err := h.RestorePod(h.ctx, &runtimeapi.RestorePodRequest{}); return err },
	} {
		if err := call(); status.Code(err) != codes.Unimplemented {
			t.Error(err)
		}
	}
}

// What happens to a pod and its containers is told in its order.
func TestEvents(t *testing.T) {
	h := newHost(t)
	h.pull(t)
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	events, err := h.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err == nil {
		_, err = events.Header() // from here on nothing is missed
	}
	if err != nil {
		t.Fatal(err)
	}
	pod, config := h.pod(t, "a")
	id := h.container(t, pod, config, "one", "exit 3", nil)
	var got []string
	for len(got) < 4 {
		e, err := events.Recv()
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		if e.ContainerId != id {
			continue
		}
		got = append(got, e.ContainerEventType.String())
		if e.PodSandboxStatus.GetId() != pod || time.Since(time.Unix(0, e.CreatedAt)) > time.Hour {
			t.Errorf("%v", e)
		}
		if e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
			if len(e.ContainersStatuses) != 1 || e.ContainersStatuses[0].ExitCode != 3 {
				t.Errorf("%v", e)
			}
			if _, err := h.RemoveContainer(h.ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := "[CONTAINER_CREATED_EVENT CONTAINER_STARTED_EVENT CONTAINER_STOPPED_EVENT CONTAINER_DELETED_EVENT]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	// A pod counts as a container of its id. Of one that is gone there is no status.
	if _, err := h.RemovePodSandbox(h.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	for got = nil; len(got) < 2; {
		e, err := events.Recv()
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		if e.ContainerId != pod {
			t.Errorf("%v", e)
		}
		got = append(got, e.ContainerEventType.String())
	}
	if want = "[CONTAINER_STOPPED_EVENT CONTAINER_DELETED_EVENT]"; fmt.Sprint(got) != want {
		t.Errorf("of the pod %v, want %s", got, want)
	}
}

func TestImages(t *testing.T) {
	h := newHost(t)
	id := h.pull(t)
	one, err := h.images.ImageStatus(h.ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: id}})
	if err != nil || len(one.GetImage().GetRepoTags()) != 1 || one.Image.RepoTags[0] != busybox() || len(one.Image.RepoDigests) != 1 {
		t.Fatalf("%v, %v", one, err)
	}
	st, err := h.images.StreamImages(h.ctx, &runtimeapi.StreamImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := st.Recv(); err != nil || len(m.Images) != 1 || m.Images[0].Id != id {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := st.Recv(); err != io.EOF {
		t.Error(err)
	}
	fs, err := h.images.ImageFsInfo(h.ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || fs.ImageFilesystems[0].UsedBytes.Value == 0 {
		t.Errorf("%v, %v", fs, err)
	}
	if _, err := h.images.RemoveImage(h.ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: one.Image.RepoDigests[0]}}); err != nil {
		t.Fatal(err)
	}
	until(t, "a collection", func() bool {
		fs, err := h.images.ImageFsInfo(h.ctx, &runtimeapi.ImageFsInfoRequest{})
		return err == nil && fs.ImageFilesystems[0].UsedBytes.Value == 0
	})
}
