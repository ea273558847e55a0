// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"errors"
	"fmt"
	"math"

	"github.com/containerd/errdefs"
)

// The type URLs that containerd's clients look for in StatsResponse.
const (
	metricsV1URL = "io.containerd.cgroups.v1.Metrics"
	metricsV2URL = "io.containerd.cgroups.v2.Metrics"
)

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

// group is a message that has no struct of its own.
type group func(c *codec)

func (g group) fields(c *codec) { g(c) }

// maxDevices bounds what a few bytes can make ParseMetrics allocate and search.
const maxDevices = 4096

// device is the entry of a block device, made when missing.
func (m *Metrics) device(major, minor uint64) (*IOMetrics, error) {
	for i := range m.IO {
		if d := &m.IO[i]; d.Major == major && d.Minor == minor {
			return d, nil
		}
	}
	if len(m.IO) == maxDevices {
		return nil, errors.New("too many block devices")
	}
	m.IO = append(m.IO, IOMetrics{Major: major, Minor: minor})
	return &m.IO[len(m.IO)-1], nil
}

// ParseMetrics reads either encoding, whoever made it; fields that Metrics does
// not have are dropped. Another type URL, or none, is errdefs.ErrNotImplemented.
func ParseMetrics(a *Any) (Metrics, error) {
	var m Metrics
	var err error
	switch {
	case a == nil:
		return m, fmt.Errorf("metrics of no type: %w", errdefs.ErrNotImplemented)
	case a.TypeURL == metricsV1URL:
		err = parseV1(a.Value, &m)
	case a.TypeURL == metricsV2URL:
		err = parseV2(a.Value, &m)
	default:
		return m, fmt.Errorf("metrics of type %q: %w", a.TypeURL, errdefs.ErrNotImplemented)
	}
	if err != nil {
		return Metrics{}, fmt.Errorf("read %s: %w: %w", a.TypeURL, err, errdefs.ErrInternal)
	}
	return m, nil
}

// v2 is the message of cgroup v2. CPU times are microseconds in it.
func (m *Metrics) v2(c *codec) {
	c.message(1, group(func(c *codec) {
		c.uint64(1, &m.Pids)
		c.uint64(2, &m.PidsLimit)
	}))
	c.message(2, group(func(c *codec) {
		c.uint64(1, &m.CPUUsage)
		c.uint64(2, &m.CPUUser)
		c.uint64(3, &m.CPUSystem)
		c.uint64(4, &m.Periods)
		c.uint64(5, &m.ThrottledPeriods)
		c.uint64(6, &m.ThrottledTime)
	}))
	c.message(4, group(func(c *codec) {
		c.uint64(1, &m.Anon)
		c.uint64(2, &m.File)
		c.uint64(13, &m.InactiveFile)
		c.uint64(18, &m.PageFaults)
		c.uint64(19, &m.MajorPageFaults)
		c.uint64(32, &m.MemoryUsage)
		c.uint64(33, &m.MemoryLimit)
		c.uint64(34, &m.SwapUsage)
		c.uint64(35, &m.SwapLimit)
		c.uint64(36, &m.MemoryPeak)
	}))
	// Also without a device: clients take it for given.
	c.message(6, group(func(c *codec) {
		repeated(c, 1, &m.IO, maxDevices, func(d *IOMetrics) message { return group(d.v2) })
	}))
	c.message(8, group(func(c *codec) { c.uint64(5, &m.OOMKills) }))
}

func (d *IOMetrics) v2(c *codec) {
	c.uint64(1, &d.Major)
	c.uint64(2, &d.Minor)
	c.uint64(3, &d.ReadBytes)
	c.uint64(4, &d.WriteBytes)
	c.uint64(5, &d.ReadOps)
	c.uint64(6, &d.WriteOps)
}

// MetricsV2 encodes m as io.containerd.cgroups.v2.Metrics. CPU times lose what
// is less than a microsecond.
func MetricsV2(m Metrics) *Any {
	for _, t := range m.times() {
		*t /= 1000
	}
	return &Any{TypeURL: metricsV2URL, Value: encode(nil, group(m.v2))}
}

func (m *Metrics) times() []*uint64 {
	return []*uint64{&m.CPUUsage, &m.CPUUser, &m.CPUSystem, &m.ThrottledTime}
}

func parseV2(b []byte, m *Metrics) error {
	err := decode(b, group(m.v2))
	for _, t := range m.times() {
		*t = times(*t, 1000)
	}
	return err
}

// times is a*b, or the largest number when that is larger.
func times(a, b uint64) uint64 {
	if a > math.MaxUint64/b {
		return math.MaxUint64
	}
	return a * b
}
