// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// dispatchSandbox decodes payload for method and calls it.
func dispatchSandbox(ctx context.Context, s SandboxServer, method string, payload []byte) (message, error) {
	switch method {
	case "CreateSandbox":
		return done(ctx, payload, s.CreateSandbox)
	case "StartSandbox":
		return answer(ctx, payload, s.StartSandbox)
	case "Platform":
		return answer(ctx, payload, s.Platform)
	case "StopSandbox":
		return done(ctx, payload, s.StopSandbox)
	case "WaitSandbox":
		return answer(ctx, payload, s.WaitSandbox)
	case "SandboxStatus":
		return answer(ctx, payload, s.SandboxStatus)
	case "PingSandbox":
		return done(ctx, payload, s.PingSandbox)
	case "ShutdownSandbox":
		return done(ctx, payload, s.ShutdownSandbox)
	case "SandboxMetrics":
		return answer(ctx, payload, s.SandboxMetrics)
	}
	return nil, fmt.Errorf("method %q: %w", method, errdefs.ErrNotImplemented)
}

func (m *CreateSandboxRequest) fields(c *codec) {
	c.string(1, &m.SandboxID)
	c.string(2, &m.BundlePath)
	c.mounts(3, &m.Rootfs)
	c.any(4, &m.Options)
	c.string(5, &m.NetnsPath)
	c.strmap(6, &m.Annotations)
}

func (m *StartSandboxRequest) fields(c *codec) { c.string(1, &m.SandboxID) }

func (m *StartSandboxResponse) fields(c *codec) {
	c.uint32(1, &m.Pid)
	c.time(2, &m.CreatedAt)
	c.any(3, &m.Spec)
}

func (m *PlatformRequest) fields(c *codec) { c.string(1, &m.SandboxID) }

func (m *PlatformResponse) fields(c *codec) { optional(c, 1, &m.Platform) }

func (m *Platform) fields(c *codec) {
	c.string(1, &m.OS)
	c.string(2, &m.Architecture)
	c.string(3, &m.Variant)
	c.string(4, &m.OSVersion)
	c.strings(5, &m.OSFeatures)
}

func (m *StopSandboxRequest) fields(c *codec) {
	c.string(1, &m.SandboxID)
	c.uint32(2, &m.TimeoutSecs)
}

func (m *WaitSandboxRequest) fields(c *codec) { c.string(1, &m.SandboxID) }

func (m *WaitSandboxResponse) fields(c *codec) {
	c.uint32(1, &m.ExitStatus)
	c.time(2, &m.ExitedAt)
}

func (m *SandboxStatusRequest) fields(c *codec) {
	c.string(1, &m.SandboxID)
	c.bool(2, &m.Verbose)
}

func (m *SandboxStatusResponse) fields(c *codec) {
	c.string(1, &m.SandboxID)
	c.uint32(2, &m.Pid)
	c.string(3, &m.State)
	c.strmap(4, &m.Info)
	c.time(5, &m.CreatedAt)
	c.time(6, &m.ExitedAt)
	c.any(7, &m.Extra)
}

func (m *PingRequest) fields(c *codec) { c.string(1, &m.SandboxID) }

func (m *ShutdownSandboxRequest) fields(c *codec) { c.string(1, &m.SandboxID) }

func (m *SandboxMetricsRequest) fields(c *codec) { c.string(1, &m.SandboxID) }

func (m *SandboxMetricsResponse) fields(c *codec) { optional(c, 1, &m.Metrics) }

func (m *Metric) fields(c *codec) {
	c.time(1, &m.Timestamp)
	c.string(2, &m.ID)
	c.any(3, &m.Data)
}
