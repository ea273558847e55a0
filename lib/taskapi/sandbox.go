// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"time"
)

// sandboxService is beside the task service in shims that know sandboxes
// (containerd's api/runtime/sandbox/v1/sandbox.proto).
const sandboxService = "containerd.runtime.sandbox.v1.Sandbox"

// SandboxServer is the service containerd.runtime.sandbox.v1.Sandbox, with the
// promises of [Server]. UpdateSandbox, which a shim need not have, is answered
// with errdefs.ErrNotImplemented.
type SandboxServer interface {
	CreateSandbox(ctx context.Context, r *CreateSandboxRequest) error
	StartSandbox(ctx context.Context, r *StartSandboxRequest) (*StartSandboxResponse, error)
	Platform(ctx context.Context, r *PlatformRequest) (*PlatformResponse, error)
	StopSandbox(ctx context.Context, r *StopSandboxRequest) error
	WaitSandbox(ctx context.Context, r *WaitSandboxRequest) (*WaitSandboxResponse, error)
	SandboxStatus(ctx context.Context, r *SandboxStatusRequest) (*SandboxStatusResponse, error)
	PingSandbox(ctx context.Context, r *PingRequest) error
	ShutdownSandbox(ctx context.Context, r *ShutdownSandboxRequest) error
	SandboxMetrics(ctx context.Context, r *SandboxMetricsRequest) (*SandboxMetricsResponse, error)
}

// CreateSandboxRequest asks for the environment of a sandbox to be set up. It
// is the first call after the shim was started.
type CreateSandboxRequest struct {
	SandboxID   string
	BundlePath  string // directory with config.json
	Rootfs      []Mount
	Options     *Any
	NetnsPath   string // a network namespace that is there already, or empty
	Annotations map[string]string
}

// StartSandboxRequest asks for a created sandbox to run.
type StartSandboxRequest struct{ SandboxID string }

// StartSandboxResponse has the pid of the sandbox, seen from the host.
type StartSandboxResponse struct {
	Pid       uint32
	CreatedAt time.Time
	Spec      *Any // how it was started; may be absent
}

// PlatformRequest asks for what the containers of a sandbox run on.
type PlatformRequest struct{ SandboxID string }

// PlatformResponse has what the containers of a sandbox run on.
type PlatformResponse struct{ Platform *Platform }

// Platform is containerd.types.Platform, with the names of Go and OCI.
type Platform struct {
	OS           string
	Architecture string
	Variant      string
	OSVersion    string
	OSFeatures   []string
}

// StopSandboxRequest asks for a sandbox and all of its containers to be ended.
type StopSandboxRequest struct {
	SandboxID   string
	TimeoutSecs uint32 // seconds until it is ended by force; 0 is the shim's choice
}

// WaitSandboxRequest asks for the end of a sandbox.
type WaitSandboxRequest struct{ SandboxID string }

// WaitSandboxResponse tells how a sandbox ended.
type WaitSandboxResponse struct {
	ExitStatus uint32
	ExitedAt   time.Time
}

// SandboxStatusRequest asks for the state of a sandbox.
type SandboxStatusRequest struct {
	SandboxID string
	Verbose   bool // Info is wanted
}

// SandboxStatusResponse is the state of a sandbox. ExitedAt means something
// once it has ended.
type SandboxStatusResponse struct {
	SandboxID string
	Pid       uint32
	State     string // of containerd: SANDBOX_READY or SANDBOX_NOTREADY
	Info      map[string]string
	CreatedAt time.Time
	ExitedAt  time.Time
	Extra     *Any
}

// The states of a sandbox that containerd knows.
const (
	SandboxReady    = "SANDBOX_READY"
	SandboxNotReady = "SANDBOX_NOTREADY"
)

// PingRequest asks whether a sandbox is there.
type PingRequest struct{ SandboxID string }

// ShutdownSandboxRequest asks the shim to end. Its sandbox has been stopped.
type ShutdownSandboxRequest struct{ SandboxID string }

// SandboxMetricsRequest asks for what a sandbox uses.
type SandboxMetricsRequest struct{ SandboxID string }

// SandboxMetricsResponse has what a sandbox uses.
type SandboxMetricsResponse struct{ Metrics *Metric }

// Metric is containerd.types.Metric. Data is that of [StatsResponse].
type Metric struct {
	Timestamp time.Time
	ID        string
	Data      *Any
}

// CreateSandbox calls the server's CreateSandbox.
func (c *Client) CreateSandbox(ctx context.Context, r *CreateSandboxRequest) error {
	return c.invoke(ctx, sandboxService, "CreateSandbox", r, new(empty))
}

// StartSandbox calls the server's StartSandbox.
func (c *Client) StartSandbox(ctx context.Context, r *StartSandboxRequest) (*StartSandboxResponse, error) {
	return askSandbox(ctx, c, "StartSandbox", r, new(StartSandboxResponse))
}

// Platform calls the server's Platform.
func (c *Client) Platform(ctx context.Context, r *PlatformRequest) (*PlatformResponse, error) {
	return askSandbox(ctx, c, "Platform", r, new(PlatformResponse))
}

// StopSandbox calls the server's StopSandbox.
func (c *Client) StopSandbox(ctx context.Context, r *StopSandboxRequest) error {
	return c.invoke(ctx, sandboxService, "StopSandbox", r, new(empty))
}

// WaitSandbox calls the server's WaitSandbox.
func (c *Client) WaitSandbox(ctx context.Context, r *WaitSandboxRequest) (*WaitSandboxResponse, error) {
	return askSandbox(ctx, c, "WaitSandbox", r, new(WaitSandboxResponse))
}

// SandboxStatus calls the server's SandboxStatus.
func (c *Client) SandboxStatus(ctx context.Context, r *SandboxStatusRequest) (*SandboxStatusResponse, error) {
	return askSandbox(ctx, c, "SandboxStatus", r, new(SandboxStatusResponse))
}

// PingSandbox calls the server's PingSandbox.
func (c *Client) PingSandbox(ctx context.Context, r *PingRequest) error {
	return c.invoke(ctx, sandboxService, "PingSandbox", r, new(empty))
}

// ShutdownSandbox calls the server's ShutdownSandbox.
func (c *Client) ShutdownSandbox(ctx context.Context, r *ShutdownSandboxRequest) error {
	return c.invoke(ctx, sandboxService, "ShutdownSandbox", r, new(empty))
}

// SandboxMetrics calls the server's SandboxMetrics.
func (c *Client) SandboxMetrics(ctx context.Context, r *SandboxMetricsRequest) (*SandboxMetricsResponse, error) {
	return askSandbox(ctx, c, "SandboxMetrics", r, new(SandboxMetricsResponse))
}

func askSandbox[R message](ctx context.Context, c *Client, method string, q message, r R) (R, error) {
	if err := c.invoke(ctx, sandboxService, method, q, r); err != nil {
		var none R
		return none, err
	}
	return r, nil
}
