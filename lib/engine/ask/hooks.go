// SPDX-License-Identifier: Apache-2.0

package ask

import (
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Unbounded is how long hooks may take of which one has no timeout: a time that no wait sees the end of, and that can be added to others.
const Unbounded time.Duration = 1 << 61

// HookTime is how long the hooks may take, all together, that run while a container is created and started. It is beside the bounds that
// engine and supervisor have for their own work: a specification allows a hook any time (OCI runtime-spec, config.md, "POSIX-platform
// Hooks").
func HookTime(h *specs.Hooks) time.Duration {
	if h == nil {
		return 0
	}
	//lint:ignore SA1019 engines run prestart hooks, though they are deprecated
	return timeOf(slices.Concat(h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart))
}

// PoststopTime is the same of the hooks that run when a container is deleted.
func PoststopTime(h *specs.Hooks) time.Duration {
	if h == nil {
		return 0
	}
	return timeOf(h.Poststop)
}

func timeOf(hooks []specs.Hook) (all time.Duration) {
	for _, hook := range hooks {
		if hook.Timeout == nil || time.Duration(*hook.Timeout) >= Unbounded/time.Second {
			return Unbounded
		}
		if all += time.Duration(max(*hook.Timeout, 0)) * time.Second; all >= Unbounded {
			return Unbounded
		}
	}
	return all
}
