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

func (m *CreateSandboxRequest) append(b []byte) []byte {
	b = putString(b, 1, m.SandboxID)
	b = putString(b, 2, m.BundlePath)
	b = putMounts(b, 3, m.Rootfs)
	b = putAny(b, 4, m.Options)
	b = putString(b, 5, m.NetnsPath)
	return putMap(b, 6, m.Annotations)
}

func (m *CreateSandboxRequest) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.SandboxID)
	case 2:
		return f.string(&m.BundlePath)
	case 3:
		return f.mount(&m.Rootfs)
	case 4:
		return f.any(&m.Options)
	case 5:
		return f.string(&m.NetnsPath)
	case 6:
		return f.strmap(&m.Annotations)
	}
	return nil
}

func (m *StartSandboxRequest) append(b []byte) []byte { return putString(b, 1, m.SandboxID) }

func (m *StartSandboxRequest) set(f field) error { return f.id(&m.SandboxID) }

func (m *StartSandboxResponse) append(b []byte) []byte {
	b = putUint(b, 1, uint64(m.Pid))
	b = putTime(b, 2, m.CreatedAt)
	return putAny(b, 3, m.Spec)
}

func (m *StartSandboxResponse) set(f field) error {
	switch f.num {
	case 1:
		return f.uint32(&m.Pid)
	case 2:
		return f.time(&m.CreatedAt)
	case 3:
		return f.any(&m.Spec)
	}
	return nil
}

func (m *PlatformRequest) append(b []byte) []byte { return putString(b, 1, m.SandboxID) }

func (m *PlatformRequest) set(f field) error { return f.id(&m.SandboxID) }

func (m *PlatformResponse) append(b []byte) []byte {
	if m.Platform == nil {
		return b
	}
	return putMessage(b, 1, m.Platform)
}

func (m *PlatformResponse) set(f field) error {
	if f.num == 1 {
		return sub(f, &m.Platform)
	}
	return nil
}

func (m *Platform) append(b []byte) []byte {
	b = putString(b, 1, m.OS)
	b = putString(b, 2, m.Architecture)
	b = putString(b, 3, m.Variant)
	b = putString(b, 4, m.OSVersion)
	return putStrings(b, 5, m.OSFeatures)
}

func (m *Platform) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.OS)
	case 2:
		return f.string(&m.Architecture)
	case 3:
		return f.string(&m.Variant)
	case 4:
		return f.string(&m.OSVersion)
	case 5:
		return f.strings(&m.OSFeatures)
	}
	return nil
}

func (m *StopSandboxRequest) append(b []byte) []byte {
	return putUint(putString(b, 1, m.SandboxID), 2, uint64(m.TimeoutSecs))
}

func (m *StopSandboxRequest) set(f field) error {
	if f.num == 2 {
		return f.uint32(&m.TimeoutSecs)
	}
	return f.id(&m.SandboxID)
}

func (m *WaitSandboxRequest) append(b []byte) []byte { return putString(b, 1, m.SandboxID) }

func (m *WaitSandboxRequest) set(f field) error { return f.id(&m.SandboxID) }

func (m *WaitSandboxResponse) append(b []byte) []byte {
	return putTime(putUint(b, 1, uint64(m.ExitStatus)), 2, m.ExitedAt)
}

func (m *WaitSandboxResponse) set(f field) error {
	switch f.num {
	case 1:
		return f.uint32(&m.ExitStatus)
	case 2:
		return f.time(&m.ExitedAt)
	}
	return nil
}

func (m *SandboxStatusRequest) append(b []byte) []byte {
	return putBool(putString(b, 1, m.SandboxID), 2, m.Verbose)
}

func (m *SandboxStatusRequest) set(f field) error {
	if f.num == 2 {
		return f.bool(&m.Verbose)
	}
	return f.id(&m.SandboxID)
}

func (m *SandboxStatusResponse) append(b []byte) []byte {
	b = putString(b, 1, m.SandboxID)
	b = putUint(b, 2, uint64(m.Pid))
	b = putString(b, 3, m.State)
	b = putMap(b, 4, m.Info)
	b = putTime(b, 5, m.CreatedAt)
	b = putTime(b, 6, m.ExitedAt)
	return putAny(b, 7, m.Extra)
}

func (m *SandboxStatusResponse) set(f field) error {
	switch f.num {
	case 1:
		return f.string(&m.SandboxID)
	case 2:
		return f.uint32(&m.Pid)
	case 3:
		return f.string(&m.State)
	case 4:
		return f.strmap(&m.Info)
	case 5:
		return f.time(&m.CreatedAt)
	case 6:
		return f.time(&m.ExitedAt)
	case 7:
		return f.any(&m.Extra)
	}
	return nil
}

func (m *PingRequest) append(b []byte) []byte { return putString(b, 1, m.SandboxID) }

func (m *PingRequest) set(f field) error { return f.id(&m.SandboxID) }

func (m *ShutdownSandboxRequest) append(b []byte) []byte { return putString(b, 1, m.SandboxID) }

func (m *ShutdownSandboxRequest) set(f field) error { return f.id(&m.SandboxID) }

func (m *SandboxMetricsRequest) append(b []byte) []byte { return putString(b, 1, m.SandboxID) }

func (m *SandboxMetricsRequest) set(f field) error { return f.id(&m.SandboxID) }

func (m *SandboxMetricsResponse) append(b []byte) []byte {
	if m.Metrics == nil {
		return b
	}
	return putMessage(b, 1, m.Metrics)
}

func (m *SandboxMetricsResponse) set(f field) error {
	if f.num == 1 {
		return sub(f, &m.Metrics)
	}
	return nil
}

func (m *Metric) append(b []byte) []byte {
	b = putTime(b, 1, m.Timestamp)
	b = putString(b, 2, m.ID)
	return putAny(b, 3, m.Data)
}

func (m *Metric) set(f field) error {
	switch f.num {
	case 1:
		return f.time(&m.Timestamp)
	case 2:
		return f.string(&m.ID)
	case 3:
		return f.any(&m.Data)
	}
	return nil
}
