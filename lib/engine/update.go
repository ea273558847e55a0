// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func merge(to *cgroups.Resources, r *specs.LinuxResources) {
	if m := r.Memory; m != nil {
		set(&to.Memory, m.Limit)
		set(&to.MemoryReservation, m.Reservation)
		set(&to.MemorySwap, m.Swap)
		if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
			// A swap limit without a memory limit is refused.
			to.MemorySwap = 0
		}
		set(&to.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	}
	if c := r.CPU; c != nil {
		set(&to.CpuPeriod, c.Period)
		set(&to.CpuQuota, c.Quota)
		set(&to.CpuRtPeriod, c.RealtimePeriod)
		set(&to.CpuRtRuntime, c.RealtimeRuntime)
		if c.Burst != nil {
			to.CpuBurst = c.Burst
		}
		if c.Idle != nil {
			to.CPUIdle = c.Idle
			if c.Shares == nil {
				// An idle cgroup has no weight; the kernel refuses one.
				to.CpuShares, to.CpuWeight = 0, 0
			}
		}
		if c.Shares != nil {
			to.CpuShares = *c.Shares
			to.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
		}
		if c.Cpus != "" {
			to.CpusetCpus = c.Cpus
		}
		if c.Mems != "" {
			to.CpusetMems = c.Mems
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		to.PidsLimit = r.Pids.Limit
	}
	for k, v := range r.Unified {
		if to.Unified == nil {
			to.Unified = make(map[string]string)
		}
		to.Unified[k] = v
	}
	if b := r.BlockIO; b != nil {
		mergeBlockIO(to, b)
	}
}

func mergeBlockIO(to *cgroups.Resources, b *specs.LinuxBlockIO) {
	set(&to.BlkioWeight, b.Weight)
	set(&to.BlkioLeafWeight, b.LeafWeight)
	for _, d := range b.WeightDevice {
		var weight, leaf uint16
		set(&weight, d.Weight)
		set(&leaf, d.LeafWeight)
		n := cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf)
		to.BlkioWeightDevice = put(to.BlkioWeightDevice, n, func(o *cgroups.WeightDevice) bool {
			return o.Major == d.Major && o.Minor == d.Minor
		})
	}
	for _, t := range []struct {
		to   *[]*cgroups.ThrottleDevice
		from []specs.LinuxThrottleDevice
	}{
		{&to.BlkioThrottleReadBpsDevice, b.ThrottleReadBpsDevice},
		{&to.BlkioThrottleWriteBpsDevice, b.ThrottleWriteBpsDevice},
		{&to.BlkioThrottleReadIOPSDevice, b.ThrottleReadIOPSDevice},
		{&to.BlkioThrottleWriteIOPSDevice, b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.from {
			n := cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate)
			*t.to = put(*t.to, n, func(o *cgroups.ThrottleDevice) bool {
				return o.Major == d.Major && o.Minor == d.Minor
			})
		}
	}
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// put replaces the element that is the same device, or adds one.
func put[T any](list []T, v T, same func(T) bool) []T {
	for i, o := range list {
		if same(o) {
			list[i] = v
			return list
		}
	}
	return append(list, v)
}
