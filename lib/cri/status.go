// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"encoding/json"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/cgroup"
)

// Status tells whether pods can be made, and what their containers can have.
func (r runtimeService) Status(_ context.Context, q *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	answer := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
		}},
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{
			{Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: recursiveReadOnly(), UserNamespaces: true}},
		},
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
	if cgroup.Booted() {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// recursiveReadOnly tells whether the kernel has mount_setattr(2), from Linux 5.12 on.
func recursiveReadOnly() bool {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	return err != unix.ENOSYS
}
