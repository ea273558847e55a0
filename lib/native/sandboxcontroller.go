// SPDX-License-Identifier: Apache-2.0

package native

import (
	"context"
	"runtime"
	"time"

	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ctrd.dev/ctrd/lib/pod"
)

// sandboxController runs sandboxes: each has a supervisor, which the containers that name it share. The record is in the store
// first.
type sandboxController struct {
	sandboxapi.UnimplementedControllerServer
	s *Server
}

// host gives where the sandboxes of a call are.
func (b sandboxController) host(ctx context.Context) (pod.Host, error) {
	ns, err := namespace(ctx)
	return pod.Host{Dir: b.s.d, Namespace: ns}, err
}

// Create checks that the sandbox is in the store. What it is made of is made by Start.
func (b sandboxController) Create(ctx context.Context, r *sandboxapi.ControllerCreateRequest) (*sandboxapi.ControllerCreateResponse, error) {
	if _, err := b.s.sandbox(ctx, r.GetSandboxID()); err != nil {
		return nil, err
	}
	return &sandboxapi.ControllerCreateResponse{SandboxID: r.GetSandboxID()}, nil
}

// protocol is the version of the task API that supervisors speak.
const protocol = 3

// Start starts the supervisor of a sandbox.
func (b sandboxController) Start(ctx context.Context, r *sandboxapi.ControllerStartRequest) (*sandboxapi.ControllerStartResponse, error) {
	h, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	st, err := h.StartSandbox(ctx, r.GetSandboxID())
	if err != nil {
		return nil, err
	}
	return &sandboxapi.ControllerStartResponse{
		SandboxID: r.GetSandboxID(), Pid: uint32(st.PID), CreatedAt: timestamppb.New(st.Since), Address: "ttrpc+" + st.Address, Version: protocol,
	}, nil
}

// Platform tells what the containers run on: this machine.
func (b sandboxController) Platform(ctx context.Context, r *sandboxapi.ControllerPlatformRequest) (*sandboxapi.ControllerPlatformResponse, error) {
	if _, err := b.s.sandbox(ctx, r.GetSandboxID()); err != nil {
		return nil, err
	}
	return &sandboxapi.ControllerPlatformResponse{Platform: &types.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}, nil
}

// Stop ends what runs in a sandbox, and its supervisor.
func (b sandboxController) Stop(ctx context.Context, r *sandboxapi.ControllerStopRequest) (*sandboxapi.ControllerStopResponse, error) {
	h, err := b.host(ctx)
	if err == nil {
		err = h.StopSandbox(ctx, r.GetSandboxID())
	}
	return &sandboxapi.ControllerStopResponse{}, err
}

// Shutdown is Stop; the record stays in the store.
func (b sandboxController) Shutdown(ctx context.Context, r *sandboxapi.ControllerShutdownRequest) (*sandboxapi.ControllerShutdownResponse, error) {
	h, err := b.host(ctx)
	if err == nil {
		err = h.StopSandbox(ctx, r.GetSandboxID())
	}
	return &sandboxapi.ControllerShutdownResponse{}, err
}

// Wait answers when the supervisor of a sandbox has ended; at once when it does not run.
func (b sandboxController) Wait(ctx context.Context, r *sandboxapi.ControllerWaitRequest) (*sandboxapi.ControllerWaitResponse, error) {
	h, err := b.host(ctx)
	if err == nil {
		err = h.WaitSandbox(ctx, r.GetSandboxID())
	}
	if err != nil {
		return nil, err
	}
	return &sandboxapi.ControllerWaitResponse{ExitedAt: timestamppb.New(time.Now())}, nil
}

// States of a sandbox, as containerd's controllers tell them.
const (
	sandboxReady    = "SANDBOX_READY"
	sandboxNotReady = "SANDBOX_NOTREADY"
)

// Status tells what a sandbox does.
func (b sandboxController) Status(ctx context.Context, r *sandboxapi.ControllerStatusRequest) (*sandboxapi.ControllerStatusResponse, error) {
	h, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	st, err := h.SandboxState(ctx, r.GetSandboxID())
	if err != nil {
		return nil, err
	}
	m := &sandboxapi.ControllerStatusResponse{SandboxID: r.GetSandboxID(), Pid: uint32(st.PID), State: sandboxNotReady, CreatedAt: timestamppb.New(st.Since)}
	if st.Ready {
		m.State, m.Address, m.Version = sandboxReady, "ttrpc+"+st.Address, protocol
	}
	return m, nil
}

// Update does nothing to a sandbox that runs: what is in its record is the store's.
func (b sandboxController) Update(ctx context.Context, r *sandboxapi.ControllerUpdateRequest) (*sandboxapi.ControllerUpdateResponse, error) {
	_, err := b.s.sandbox(ctx, r.GetSandboxID())
	return &sandboxapi.ControllerUpdateResponse{}, err
}
