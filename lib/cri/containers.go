// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/pod"
)

// CreateContainer makes a container of a pod, or gives the one that there is already.
func (r runtimeService) CreateContainer(ctx context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if err := required("pod_sandbox_id", q.GetPodSandboxId()); err != nil {
		return nil, err
	}
	c, err := containerConfig(q.GetConfig())
	if err != nil {
		return nil, err
	}
	if err := r.s.resolveImages(ctx, &c, q.GetConfig()); err != nil {
		return nil, err
	}
	id, err := r.s.pods().CreateContainer(ctx, q.GetPodSandboxId(), c)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// resolveImages finds the images that a configuration names.
func (s *Server) resolveImages(ctx context.Context, c *pod.ContainerConfig, m *runtimeapi.ContainerConfig) error {
	img, err := s.findImage(ctx, m.GetImage())
	if err != nil {
		return err
	}
	c.ImageID, c.ImageRef, c.ImageName = img.id.String(), img.ref(), img.names[0]
	for i, one := range m.GetMounts() {
		if one.GetImage().GetImage() == "" {
			continue
		}
		img, err := s.findImage(ctx, one.GetImage())
		if err != nil {
			return err
		}
		c.Mounts[i].Asked, c.Mounts[i].ImageRef, c.Mounts[i].Image = one.GetImage().GetImage(), img.id.String(), img.names[0]
	}
	return nil
}

// ref is the name with a digest by which an image is known, or its id.
func (one criImage) ref() string {
	if _, digests := one.references(); len(digests) > 0 {
		return digests[0]
	}
	return one.id.String()
}

// StartContainer starts a container.
func (r runtimeService) StartContainer(ctx context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	if err := required("container_id", q.GetContainerId()); err != nil {
		return nil, err
	}
	return &runtimeapi.StartContainerResponse{}, r.s.pods().StartContainer(ctx, q.GetContainerId())
}

// StopContainer ends a container.
func (r runtimeService) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if err := required("container_id", q.GetContainerId()); err != nil {
		return nil, err
	}
	if q.GetTimeout() < 0 {
		return nil, invalid("timeout", "%d seconds", q.GetTimeout())
	}
	const longest = int64(1<<63-1) / int64(time.Second)
	grace := time.Duration(min(q.GetTimeout(), longest)) * time.Second
	return &runtimeapi.StopContainerResponse{}, r.s.pods().StopContainer(ctx, q.GetContainerId(), grace)
}

// RemoveContainer removes a container.
func (r runtimeService) RemoveContainer(ctx context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	if err := required("container_id", q.GetContainerId()); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveContainerResponse{}, r.s.pods().RemoveContainer(ctx, q.GetContainerId())
}

// UpdateContainerResources changes the bounds that are given.
func (r runtimeService) UpdateContainerResources(ctx context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	if err := required("container_id", q.GetContainerId()); err != nil {
		return nil, err
	}
	to, err := resources(q.GetLinux())
	if err != nil {
		return nil, err
	}
	if to == nil {
		to = &pod.Resources{}
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, r.s.pods().UpdateContainer(ctx, q.GetContainerId(), *to)
}

// ListContainers gives the containers that the filter fits.
func (r runtimeService) ListContainers(ctx context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	_, encoded, err := r.listContainers(ctx, q.GetFilter())
	if err != nil {
		return nil, err
	}
	return answered(&runtimeapi.ListContainersResponse{}, encoded), nil
}

// StreamContainers is ListContainers in any number of messages.
func (r runtimeService) StreamContainers(q *runtimeapi.StreamContainersRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	all, _, err := r.listContainers(stream.Context(), q.GetFilter())
	if err != nil {
		return err
	}
	return sendAll(all, func(some []*runtimeapi.Container) error {
		return stream.Send(&runtimeapi.StreamContainersResponse{Containers: some})
	})
}

// listContainers gives the containers that a filter fits, and their encoding as an answer.
func (r runtimeService) listContainers(ctx context.Context, f *runtimeapi.ContainerFilter) (all []*runtimeapi.Container, encoded []byte, err error) {
	list, err := r.s.pods().ListContainers(ctx)
	if err != nil {
		return nil, nil, err
	}
	return r.s.containerList.messages(list, containerMessage, func(m *runtimeapi.Container) bool {
		return strings.HasPrefix(m.Id, f.GetId()) && strings.HasPrefix(m.PodSandboxId, f.GetPodSandboxId()) &&
			(f.GetState() == nil || f.GetState().GetState() == m.State) && selects(f.GetLabelSelector(), m.Labels)
	})
}

// ContainerStatus tells of a container; with verbose, info has its pid and its pod.
func (r runtimeService) ContainerStatus(ctx context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	if err := required("container_id", q.GetContainerId()); err != nil {
		return nil, err
	}
	st, err := r.s.pods().ContainerStatus(ctx, q.GetContainerId())
	if err != nil {
		return nil, err
	}
	answer := &runtimeapi.ContainerStatusResponse{Status: containerStatusMessage(&st)}
	if q.GetVerbose() {
		info, err := json.Marshal(struct {
			PID       int                 `json:"pid"`
			SandboxID string              `json:"sandboxID"`
			Config    pod.ContainerConfig `json:"config"`
		}{st.PID, st.Pod, st.ContainerConfig})
		if err != nil {
			return nil, err
		}
		answer.Info = map[string]string{"info": string(info)}
	}
	return answer, nil
}

var containerStates = map[pod.State]runtimeapi.ContainerState{
	pod.Created: runtimeapi.ContainerState_CONTAINER_CREATED, pod.Running: runtimeapi.ContainerState_CONTAINER_RUNNING,
	pod.Exited: runtimeapi.ContainerState_CONTAINER_EXITED, pod.Unknown: runtimeapi.ContainerState_CONTAINER_UNKNOWN,
}

func containerMessage(st *pod.ContainerStatus) *runtimeapi.Container {
	return &runtimeapi.Container{
		Id: st.ID, PodSandboxId: st.Pod, Metadata: &runtimeapi.ContainerMetadata{Name: st.Name, Attempt: st.Attempt},
		Image: &runtimeapi.ImageSpec{Image: st.Image}, ImageRef: st.ImageID, ImageId: st.ImageID, State: containerStates[st.State],
		CreatedAt: st.Created.UnixNano(), Labels: st.Labels, Annotations: st.Annotations,
	}
}

// Reasons of an end, as kubelets know them.
const (
	reasonCompleted = "Completed"
	reasonError     = "Error"
	reasonOOM       = "OOMKilled"
	reasonUnknown   = "Unknown"
)

func containerStatusMessage(st *pod.ContainerStatus) *runtimeapi.ContainerStatus {
	m := &runtimeapi.ContainerStatus{
		Id: st.ID, Metadata: &runtimeapi.ContainerMetadata{Name: st.Name, Attempt: st.Attempt}, State: containerStates[st.State],
		CreatedAt: st.Created.UnixNano(), Image: &runtimeapi.ImageSpec{Image: st.Image}, ImageRef: st.ImageRef, ImageId: st.ImageID,
		Labels: st.Labels, Annotations: st.Annotations, LogPath: st.LogFile, StopSignal: signalMessage(st.Signal),
		Mounts: mountMessages(st.Mounts),
	}
	if !st.Started.IsZero() {
		m.StartedAt = st.Started.UnixNano()
	}
	if e := st.Exit; st.State == pod.Exited && e != nil {
		m.FinishedAt, m.ExitCode, m.Message = e.ExitedAt.UnixNano(), int32(e.Status), e.Reason
		switch {
		case e.OOM:
			m.Reason = reasonOOM
		case e.Status == 0:
			m.Reason = reasonCompleted
		default:
			m.Reason = reasonError
		}
	}
	if st.State == pod.Unknown {
		m.Reason = reasonUnknown
	}
	if st.State == pod.Created || st.State == pod.Running || st.Resource != nil {
		var score int64
		if st.Resources != nil {
			score = st.Resources.OOMScoreAdj
		}
		m.Resources = &runtimeapi.ContainerResources{Linux: resourcesMessage(st.Resource, score)}
	}
	user := &runtimeapi.LinuxContainerUser{Uid: int64(st.User.UID), Gid: int64(st.User.GID)}
	for _, g := range st.User.AdditionalGids {
		user.SupplementalGroups = append(user.SupplementalGroups, int64(g))
	}
	m.User = &runtimeapi.ContainerUser{Linux: user}
	return m
}
