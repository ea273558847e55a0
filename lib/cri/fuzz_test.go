// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzRequests sends requests about containers, pods and images that are not there: each is answered, or refused with a kind
// that tells its client why. Whatever a field has, no port is opened and nothing is made.
func FuzzRequests(f *testing.F) {
	for _, m := range []proto.Message{
		&runtimeapi.ExecSyncRequest{ContainerId: "a", Cmd: []string{"x"}, Timeout: 1},
		&runtimeapi.AttachRequest{ContainerId: "a", Stdin: true, Tty: true},
		&runtimeapi.PortForwardRequest{PodSandboxId: "a", Port: []int32{80, -1}},
		&runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "a@sha256:b", RuntimeHandler: "x"}, Verbose: true},
		&runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: "a", Resources: &runtimeapi.LinuxContainerResources{CpuPeriod: -1}},
		podCIDR("10.0.0.0/8,x"),
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	w := newWorld(f, Options{})
	r, i := runtimeService{s: w.Server}, imageService{s: w.Server}
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx := t.Context()
		for what, call := range map[string]func() error{
			"ExecSync":          request(ctx, data, &runtimeapi.ExecSyncRequest{}, r.ExecSync),
			"Exec":              request(ctx, data, &runtimeapi.ExecRequest{}, r.Exec),
			"Attach":            request(ctx, data, &runtimeapi.AttachRequest{}, r.Attach),
			"PortForward":       request(ctx, data, &runtimeapi.PortForwardRequest{}, r.PortForward),
			"Reopen":            request(ctx, data, &runtimeapi.ReopenContainerLogRequest{}, r.ReopenContainerLog),
			"ContainerStats":    request(ctx, data, &runtimeapi.ContainerStatsRequest{}, r.ContainerStats),
			"ListStats":         request(ctx, data, &runtimeapi.ListContainerStatsRequest{}, r.ListContainerStats),
			"PodSandboxStats":   request(ctx, data, &runtimeapi.PodSandboxStatsRequest{}, r.PodSandboxStats),
			"UpdateConfig":      request(ctx, data, &runtimeapi.UpdateRuntimeConfigRequest{}, r.UpdateRuntimeConfig),
			"UpdatePodResource": request(ctx, data, &runtimeapi.UpdatePodSandboxResourcesRequest{}, r.UpdatePodSandboxResources),
			"ListImages":        request(ctx, data, &runtimeapi.ListImagesRequest{}, i.ListImages),
			"ImageStatus":       request(ctx, data, &runtimeapi.ImageStatusRequest{}, i.ImageStatus),
			"RemoveImage":       request(ctx, data, &runtimeapi.RemoveImageRequest{}, i.RemoveImage),
		} {
			err := call()
			if err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if w.streams.base != "" {
			t.Error("a port is open")
		}
	})
}

// request is a call with a message that data may be; what is none is no request.
func request[Q proto.Message, A any](ctx context.Context, data []byte, q Q, call func(context.Context, Q) (A, error)) func() error {
	return func() error {
		if proto.Unmarshal(data, q) != nil {
			return nil
		}
		_, err := call(ctx, q)
		return err
	}
}
