// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/pod"
)

// RunPodSandbox makes a pod, or gives the one that there is already.
func (r runtimeService) RunPodSandbox(ctx context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	c, err := podConfig(q.GetConfig(), q.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	if c.Pause, err = r.s.sandboxImage(ctx, c.Handler); err != nil {
		return nil, fmt.Errorf("sandbox_image of the configuration: %w", err)
	}
	st, err := r.s.pods().Run(ctx, c)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: st.ID}, nil
}

// sandboxImage gives the name of the pause image that the configuration has, which is pulled when it is not there; empty: none.
func (s *Server) sandboxImage(ctx context.Context, handler string) (string, error) {
	name := s.config().CRI.SandboxImage
	if name == "" {
		return "", nil
	}
	spec := &runtimeapi.ImageSpec{Image: name, RuntimeHandler: handler}
	one, err := s.findImage(ctx, spec)
	if errdefs.IsNotFound(err) {
		if _, err = (imageService{s: s}).PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec}); err == nil {
			one, err = s.findImage(ctx, spec)
		}
	}
	if err != nil {
		return "", err
	}
	return one.names[0], nil
}

// StopPodSandbox ends a pod.
func (r runtimeService) StopPodSandbox(ctx context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if err := required("pod_sandbox_id", q.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, r.s.pods().Stop(ctx, q.GetPodSandboxId())
}

// RemovePodSandbox removes a pod with its containers.
func (r runtimeService) RemovePodSandbox(ctx context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	if err := required("pod_sandbox_id", q.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return &runtimeapi.RemovePodSandboxResponse{}, r.s.pods().Remove(ctx, q.GetPodSandboxId())
}

// required refuses a field without a value.
func required(field, value string) error {
	if value == "" {
		return fmt.Errorf("%s: missing: %w", field, errdefs.ErrInvalidArgument)
	}
	return nil
}

// PodSandboxStatus tells of a pod; with verbose, info has its supervisor's pid, whether that was killed, and the paths of its namespaces.
func (r runtimeService) PodSandboxStatus(ctx context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	if err := required("pod_sandbox_id", q.GetPodSandboxId()); err != nil {
		return nil, err
	}
	st, err := r.s.pods().Status(ctx, q.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	answer := &runtimeapi.PodSandboxStatusResponse{Status: podStatusMessage(&st)}
	if q.GetVerbose() {
		info, err := json.Marshal(struct {
			PID        int               `json:"pid"`
			Lost       bool              `json:"lost"`
			Namespaces map[string]string `json:"namespaces"`
			Config     pod.Config        `json:"config"`
		}{st.PID, st.Lost, st.Paths, st.Config})
		if err != nil {
			return nil, err
		}
		answer.Info = map[string]string{"info": string(info)}
	}
	return answer, nil
}

// ListPodSandbox gives the pods that the filter fits.
func (r runtimeService) ListPodSandbox(ctx context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	_, encoded, err := r.listPods(ctx, q.GetFilter())
	if err != nil {
		return nil, err
	}
	return answered(&runtimeapi.ListPodSandboxResponse{}, encoded), nil
}

// StreamPodSandboxes is ListPodSandbox in any number of messages.
func (r runtimeService) StreamPodSandboxes(q *runtimeapi.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	all, _, err := r.listPods(stream.Context(), q.GetFilter())
	if err != nil {
		return err
	}
	return sendAll(all, func(some []*runtimeapi.PodSandbox) error {
		return stream.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: some})
	})
}

// listPods gives the pods that a filter fits, and their encoding as an answer.
func (r runtimeService) listPods(ctx context.Context, f *runtimeapi.PodSandboxFilter) (all []*runtimeapi.PodSandbox, encoded []byte, err error) {
	pods, err := r.s.pods().List(ctx)
	if err != nil {
		return nil, nil, err
	}
	return r.s.podList.messages(pods, podMessage, func(m *runtimeapi.PodSandbox) bool {
		return strings.HasPrefix(m.Id, f.GetId()) && (f.GetState() == nil || f.GetState().GetState() == m.State) && selects(f.GetLabelSelector(), m.Labels)
	})
}

// selects tells whether labels have all that a selector names.
func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

func podState(st *pod.Status) runtimeapi.PodSandboxState {
	if st.Ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func podMetadata(c pod.Config) *runtimeapi.PodSandboxMetadata {
	return &runtimeapi.PodSandboxMetadata{Name: c.Name, Uid: c.UID, Namespace: c.Namespace, Attempt: c.Attempt}
}

func podMessage(st *pod.Status) *runtimeapi.PodSandbox {
	return &runtimeapi.PodSandbox{
		Id: st.ID, Metadata: podMetadata(st.Config), State: podState(st), CreatedAt: st.Created.UnixNano(),
		Labels: st.Labels, Annotations: st.Annotations, RuntimeHandler: st.Handler,
	}
}

func podStatusMessage(st *pod.Status) *runtimeapi.PodSandboxStatus {
	m := &runtimeapi.PodSandboxStatus{
		Id: st.ID, Metadata: podMetadata(st.Config), State: podState(st), CreatedAt: st.Created.UnixNano(),
		Labels: st.Labels, Annotations: st.Annotations, RuntimeHandler: st.Handler,
		Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux:   &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: namespaceMessage(st.Namespaces)}},
	}
	for i, ip := range st.IPs {
		if i == 0 {
			m.Network.Ip = ip
			continue
		}
		m.Network.AdditionalIps = append(m.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return m
}
