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
	maxPids   = 1 << 22 // the kernel's PID_MAX_LIMIT
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

// Limits are the options that bound what a container uses, as they are typed. The zero value bounds nothing.
type Limits struct {
	Memory            string // --memory
	MemorySwap        string // --memory-swap: memory and swap together; "-1" is no limit
	MemoryReservation string // --memory-reservation
	MemorySwappiness  *int64 // --memory-swappiness: 0 to 100, cgroup v1 alone
	OOMKillDisable    bool   // --oom-kill-disable, cgroup v1 alone
	CPUs              string // --cpus
	CPUShares         int64  // --cpu-shares; 0 is unset
	CPUQuota          int64  // --cpu-quota: microseconds in a period; 0 is unset, -1 no limit
	CPUPeriod         int64  // --cpu-period: microseconds; 0 is unset
	CPURtRuntime      int64  // --cpu-rt-runtime: microseconds in a period; 0 is unset
	CPURtPeriod       int64  // --cpu-rt-period: microseconds; 0 is unset
	CpusetCPUs        string // --cpuset-cpus
	CpusetMems        string // --cpuset-mems
	PidsLimit         int64  // --pids-limit; 0 and -1 are no limit

	BlkioWeight       int64    // --blkio-weight: 10 to 1000; 0 is unset
	BlkioWeightDevice []string // --blkio-weight-device: /dev/NAME:WEIGHT
	DeviceReadBps     []string // --device-read-bps: /dev/NAME:SIZE, bytes a second
	DeviceWriteBps    []string // --device-write-bps
	DeviceReadIOps    []string // --device-read-iops: /dev/NAME:NUMBER, operations a second
	DeviceWriteIOps   []string // --device-write-iops
}

// Resources gives the limits as a specification has them, without device rules. It looks at the machine: what
// it does not have is errdefs.ErrInvalidArgument, as is a value that makes no sense.
func (o Limits) Resources() (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	var err error
	if r.Memory, err = o.memory(); err != nil {
		return nil, err
	}
	if r.CPU, err = o.cpu(); err != nil {
		return nil, err
	}
	if r.BlockIO, err = o.blockIO(); err != nil {
		return nil, err
	}
	if o.PidsLimit < -1 || o.PidsLimit > maxPids {
		return nil, invalid("pids-limit", itoa(o.PidsLimit), "want a number from 1 to %d, or -1 for no limit", maxPids)
	}
	if o.PidsLimit > 0 {
		r.Pids = &specs.LinuxPids{Limit: &o.PidsLimit}
	}
	return r, nil
}

// NoPidsLimit is the resource that lifts a limit of processes.
func NoPidsLimit() *specs.LinuxPids {
	none := int64(-1)
	return &specs.LinuxPids{Limit: &none}
}

func (o Limits) memory() (*specs.LinuxMemory, error) {
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
	if err := o.shortage(m); err != nil {
		return nil, err
	}
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

// shortage fills in what cgroup v1 can do when memory is short.
func (o Limits) shortage(m *specs.LinuxMemory) error {
	switch n := o.MemorySwappiness; {
	case n == nil || *n == -1: // docker's "unset"
	case *n < 0 || *n > 100:
		return invalid("memory-swappiness", itoa(*n), "want a number from 0 to 100")
	case Unified():
		return invalid("memory-swappiness", itoa(*n), "cgroup v2, which this machine has, knows no swappiness")
	default:
		swappiness := uint64(*n)
		m.Swappiness = &swappiness
	}
	switch {
	case !o.OOMKillDisable:
	case Unified():
		return invalid("oom-kill-disable", "true", "cgroup v2, which this machine has, cannot do it")
	case o.Memory == "":
		return invalid("oom-kill-disable", "true", "give --memory too: the machine would run out of memory")
	default:
		m.DisableOOMKiller = &o.OOMKillDisable
	}
	return nil
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

func (o Limits) cpu() (*specs.LinuxCPU, error) {
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
	if err := o.scheduling(c); err != nil {
		return nil, err
	}
	for _, f := range []struct{ flag, value, example, possible string }{
		{"cpuset-cpus", o.CpusetCPUs, "0-3,7", "/sys/devices/system/cpu/possible"},
		{"cpuset-mems", o.CpusetMems, "0-1", "/sys/devices/system/node/possible"},
	} {
		if f.value == "" {
			continue
		}
		asked, ok := parseList(f.value)
		if !ok {
			return nil, invalid(f.flag, f.value, "want a list such as %s", f.example)
		}
		// One that is offline may come; cgroup v2 takes it.
		b, err := os.ReadFile(f.possible)
		text := strings.TrimSpace(string(b))
		there, ok := parseList(text)
		if err != nil || !ok {
			continue // the kernel will say
		}
		for n := range asked {
			if !there[n] {
				return nil, invalid(f.flag, f.value, "this machine has %s", text)
			}
		}
	}
	if *c == (specs.LinuxCPU{}) {
		return nil, nil
	}
	return c, nil
}

// Bounds of the kernel on cpu.cfs_period_us and cpu.rt_period_us, microseconds.
const (
	minPeriod = 1_000
	maxPeriod = 1_000_000
)

// maxQuota is the kernel's bound on cpu.cfs_quota_us and cpu.max, microseconds.
const maxQuota = 1<<44 - 1

// scheduling fills in shares, quota and periods.
func (o Limits) scheduling(c *specs.LinuxCPU) error {
	if o.CPUShares != 0 {
		if o.CPUShares < 2 || o.CPUShares > 262144 {
			return invalid("cpu-shares", itoa(o.CPUShares), "want a number from 2 to 262144")
		}
		shares := uint64(o.CPUShares)
		c.Shares = &shares
	}
	if c.Quota != nil && (o.CPUQuota != 0 || o.CPUPeriod != 0) {
		return invalid("cpus", o.CPUs, "it sets quota and period: not with --cpu-quota or --cpu-period")
	}
	if o.CPUPeriod != 0 {
		if o.CPUPeriod < minPeriod || o.CPUPeriod > maxPeriod {
			return invalid("cpu-period", itoa(o.CPUPeriod), "want a number of microseconds from %d to %d", minPeriod, maxPeriod)
		}
		period := uint64(o.CPUPeriod)
		c.Period = &period
	}
	if o.CPUQuota != 0 {
		if o.CPUQuota < cpuQuota && o.CPUQuota != -1 {
			return invalid("cpu-quota", itoa(o.CPUQuota), "want at least %d microseconds, or -1 for no limit", cpuQuota)
		}
		if o.CPUQuota > maxQuota {
			return invalid("cpu-quota", itoa(o.CPUQuota), "want at most %d microseconds", int64(maxQuota))
		}
		c.Quota = &o.CPUQuota
	}
	if o.CPURtRuntime == 0 && o.CPURtPeriod == 0 {
		return nil
	}
	period := o.CPURtPeriod
	if period == 0 {
		period = maxPeriod // the kernel's default
	}
	switch {
	case !realtimeGroups():
		return invalid("cpu-rt-runtime", itoa(o.CPURtRuntime), "this machine has no real-time scheduling of cgroups (CONFIG_RT_GROUP_SCHED, cgroup v1)")
	case o.CPURtPeriod < 0 || o.CPURtPeriod > maxPeriod:
		return invalid("cpu-rt-period", itoa(o.CPURtPeriod), "want a number of microseconds up to %d", maxPeriod)
	case o.CPURtRuntime < 0 || o.CPURtRuntime > period:
		return invalid("cpu-rt-runtime", itoa(o.CPURtRuntime), "want a number of microseconds up to the period, %d", period)
	}
	if o.CPURtPeriod != 0 {
		p := uint64(o.CPURtPeriod)
		c.RealtimePeriod = &p
	}
	if o.CPURtRuntime != 0 {
		c.RealtimeRuntime = &o.CPURtRuntime
	}
	return nil
}

// realtimeGroups says whether cgroups have a budget of real-time scheduling.
var realtimeGroups = sync.OnceValue(func() bool {
	for _, dir := range []string{"cpu", "cpu,cpuacct"} {
		if _, err := os.Stat("/sys/fs/cgroup/" + dir + "/cpu.rt_runtime_us"); err == nil {
			return true
		}
	}
	return false
})

// maxListed bounds the numbers in a list; the kernel's own bounds are 8192 processors and 1024 nodes.
const maxListed = 8192

// parseList reads the list format of cpuset(7); "" is the empty set.
func parseList(list string) (set map[uint64]bool, ok bool) {
	set = map[uint64]bool{}
	if list == "" {
		return set, true
	}
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return nil, false
		}
		to, err := strconv.ParseUint(last, 10, 16)
		if err != nil || to < from || to >= maxListed {
			return nil, false
		}
		for n := from; n <= to; n++ {
			set[n] = true
		}
	}
	return set, true
}

// Unified says whether the host has cgroup v2 only.
var Unified = sync.OnceValue(func() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
})
