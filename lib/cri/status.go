// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"cmp"
	"context"
	"encoding/json"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ctrd.dev/ctrd/lib/config"
)

// Status tells whether pods can be made, and what their containers can have.
func (r runtimeService) Status(ctx context.Context, q *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if err := r.s.pods().NetworkReady(ctx); err != nil {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", err.Error()
	}
	answer := &runtimeapi.StatusResponse{
		Status:          &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: true}, network}},
		Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
		RuntimeHandlers: r.s.handlers(),
	}
	if q.GetVerbose() {
		conf := *r.s.config()
		conf.CRI.Registry.Headers = nil // they may log in
		config, err := json.Marshal(struct {
			Root   string        `json:"root"`
			State  string        `json:"state"`
			Config config.Config `json:"config"`
		}{r.s.d.Path(), r.s.d.Run(), conf})
		if err != nil {
			return nil, err
		}
		answer.Info = map[string]string{"config": string(config)}
	}
	return answer, nil
}

// handlers lists what can run pods.
func (s *Server) handlers() (all []*runtimeapi.RuntimeHandler) {
	c := s.config()
	for _, name := range s.pods().Handlers() {
		f := &runtimeapi.RuntimeHandlerFeatures{}
		if r := c.Runtimes[cmp.Or(name, c.DefaultRuntime)]; r.Type == "" && r.Path == "" {
			// What another shim can do, nobody tells.
			f.RecursiveReadOnlyMounts, f.UserNamespaces = recursiveReadOnly(), true
		}
		all = append(all, &runtimeapi.RuntimeHandler{Name: name, Features: f})
	}
	return all
}

// recursiveReadOnly tells whether the kernel has mount_setattr(2), from Linux 5.12 on.
func recursiveReadOnly() bool {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	return err != unix.ENOSYS
}
