// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"encoding/json"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Status tells whether pods can be made, and what their containers can have.
func (r runtimeService) Status(ctx context.Context, q *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	pods := r.s.pods()
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if err := pods.NetworkReady(ctx); err != nil {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", err.Error()
	}
	answer := &runtimeapi.StatusResponse{
		Status:   &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: true}, network}},
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
	}
	for _, name := range pods.Handlers() {
		answer.RuntimeHandlers = append(answer.RuntimeHandlers, &runtimeapi.RuntimeHandler{
			Name: name, Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: recursiveReadOnly(), UserNamespaces: true},
		})
	}
	if q.GetVerbose() {
		config, err := json.Marshal(map[string]string{"root": r.s.d.Path(), "state": r.s.d.Run()})
		if err != nil {
			return nil, err
		}
		answer.Info = map[string]string{"config": string(config)}
	}
	return answer, nil
}

// RuntimeConfig tells which of the two makes cgroups, so that the kubelet names their parents in its way.
func (r runtimeService) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if r.s.pods().SystemdCgroups() {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// recursiveReadOnly tells whether the kernel has mount_setattr(2), from Linux 5.12 on.
func recursiveReadOnly() bool {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	return err != unix.ENOSYS
}
