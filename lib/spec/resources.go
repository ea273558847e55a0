// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func itoa[T int | int64](n T) string { return strconv.FormatInt(int64(n), 10) }

const (
	// minMemory is docker's: less does not even hold what the start needs.
	minMemory = 6 << 20
	cpuPeriod = 100_000 // microseconds
	cpuQuota  = 1_000   // the kernel's smallest, microseconds
)

// size parses a size such as 64m; "" is 0.
func size(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(text)
	// The parser goes through float64: what does not fit becomes a negative number.
	if err != nil || n < 0 {
		return 0, invalid(flag, text, "want a size such as 64m or 1g")
	}
	return n, nil
}

func resources(o Options) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	var err error
	if r.Memory, err = memory(o); err != nil {
		return nil, err
	}
	if r.CPU, err = cpu(o); err != nil {
		return nil, err
	}
	if o.PidsLimit < -1 {
		return nil, invalid("pids-limit", itoa(o.PidsLimit), "want a number above 0, or -1 for no limit")
	}
	if o.PidsLimit > 0 {
		r.Pids = &specs.LinuxPids{Limit: &o.PidsLimit}
	}
	return r, nil
}

func memory(o Options) (*specs.LinuxMemory, error) {
	limit, err := size("memory", o.Memory)
	if err != nil {
		return nil, err
	}
	soft, err := size("memory-reservation", o.MemoryReservation)
	if err != nil {
		return nil, err
	}
	swap := int64(-1)
	if o.MemorySwap != "-1" {
		if swap, err = size("memory-swap", o.MemorySwap); err != nil {
			return nil, err
		}
	}
	switch {
	case limit > 0 && limit < minMemory:
		return nil, invalid("memory", o.Memory, "want at least 6m")
	case soft > 0 && soft < minMemory:
		return nil, invalid("memory-reservation", o.MemoryReservation, "want at least 6m")
	case limit > 0 && soft > limit:
		return nil, invalid("memory-reservation", o.MemoryReservation, "want no more than --memory %s", o.Memory)
	case swap > 0 && limit == 0:
		return nil, invalid("memory-swap", o.MemorySwap, "give --memory too")
	case swap > 0 && swap < limit:
		return nil, invalid("memory-swap", o.MemorySwap, "it counts memory and swap together; want at least --memory %s", o.Memory)
	case swap == 0 && limit > 0 && limit <= math.MaxInt64/2 && swapLimited():
		swap = 2 * limit
	}
	m := &specs.LinuxMemory{}
	set := func(to **int64, n int64) {
		if n != 0 {
			*to = &n
		}
	}
	set(&m.Limit, limit)
	set(&m.Reservation, soft)
	set(&m.Swap, swap)
	if *m == (specs.LinuxMemory{}) {
		return nil, nil
	}
	return m, nil
}

// swapLimited says whether the kernel can limit swap: a default must not make a start fail.
var swapLimited = sync.OnceValue(func() bool {
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
		return err == nil
	}
	_, err := os.Stat("/proc/swaps")
	return err == nil
})

func cpu(o Options) (*specs.LinuxCPU, error) {
	c := &specs.LinuxCPU{Cpus: o.CpusetCPUs, Mems: o.CpusetMems}
	if o.CPUs != "" {
		n, err := strconv.ParseFloat(o.CPUs, 64)
		quota := n * cpuPeriod
		switch {
		case err != nil || math.IsNaN(n) || math.IsInf(n, 0) || n < 0:
			return nil, invalid("cpus", o.CPUs, "want a number such as 1.5")
		case n > float64(runtime.NumCPU()):
			return nil, invalid("cpus", o.CPUs, "this machine has %d", runtime.NumCPU())
		case n > 0 && quota < cpuQuota:
			return nil, invalid("cpus", o.CPUs, "want at least 0.01")
		case n > 0:
			q, period := int64(math.Round(quota)), uint64(cpuPeriod)
			c.Quota, c.Period = &q, &period
		}
	}
	if o.CPUShares != 0 {
		if o.CPUShares < 2 || o.CPUShares > 262144 {
			return nil, invalid("cpu-shares", itoa(o.CPUShares), "want a number from 2 to 262144")
		}
		shares := uint64(o.CPUShares)
		c.Shares = &shares
	}
	if !validCPUList(o.CpusetCPUs) {
		return nil, invalid("cpuset-cpus", o.CpusetCPUs, "want a list such as 0-3,7")
	}
	if !validCPUList(o.CpusetMems) {
		return nil, invalid("cpuset-mems", o.CpusetMems, "want a list such as 0-1")
	}
	if *c == (specs.LinuxCPU{}) {
		return nil, nil
	}
	return c, nil
}

// validCPUList checks the list format of cpuset(7); "" is good.
func validCPUList(list string) bool {
	if list == "" {
		return true
	}
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return false
		}
		if !isRange {
			continue
		}
		if to, err := strconv.ParseUint(last, 10, 16); err != nil || to < from {
			return false
		}
	}
	return true
}

// unified says whether the host has cgroup v2 only.
var unified = sync.OnceValue(func() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
})
