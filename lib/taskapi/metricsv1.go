// SPDX-License-Identifier: Apache-2.0

package taskapi

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// v1 is the message of cgroup v1. Its numbers of swap are memory and swap
// together.
type v1 struct {
	*Metrics
	swapUsage, swapLimit uint64
}

func (m *v1) fields(c *codec) {
	c.message(2, group(func(c *codec) {
		c.uint64(1, &m.Pids)
		c.uint64(2, &m.PidsLimit)
	}))
	c.message(3, group(func(c *codec) {
		c.message(1, group(func(c *codec) {
			c.uint64(1, &m.CPUUsage)
			c.uint64(2, &m.CPUSystem)
			c.uint64(3, &m.CPUUser)
		}))
		c.message(2, group(func(c *codec) {
			c.uint64(1, &m.Periods)
			c.uint64(2, &m.ThrottledPeriods)
			c.uint64(3, &m.ThrottledTime)
		}))
	}))
	c.message(4, group(m.memory))
	c.message(5, group(m.io)) // also without a device: clients take it for given
	c.message(9, group(func(c *codec) { c.uint64(3, &m.OOMKills) }))
}

func (m *v1) memory(c *codec) {
	// Each number twice, as the cgroup's own and with its descendants; the
	// latter is what callers read, and what counts when both came.
	for _, up := range []protowire.Number{0, 17} {
		c.uint64(1+up, &m.File)
		c.uint64(2+up, &m.Anon)
		c.uint64(9+up, &m.PageFaults)
		c.uint64(10+up, &m.MajorPageFaults)
		c.uint64(13+up, &m.InactiveFile)
	}
	c.message(33, group(func(c *codec) {
		c.uint64(1, &m.MemoryLimit)
		c.uint64(2, &m.MemoryUsage)
		c.uint64(3, &m.MemoryPeak)
	}))
	if c.in != nil || m.swapUsage > 0 || m.swapLimit > 0 {
		c.message(34, group(func(c *codec) {
			c.uint64(1, &m.swapLimit)
			c.uint64(2, &m.swapUsage)
		}))
	}
}

// io is a BlkIOStat: an entry for each number of each device. Other operations
// than Read and Write are sums of them, or of no interest here.
func (m *v1) io(c *codec) {
	for _, num := range []protowire.Number{1, 2} {
		if c.in != nil {
			if c.is(num, protowire.BytesType) {
				m.take(c, num)
			}
			continue
		}
		for i := range m.IO {
			d := &m.IO[i]
			for _, op := range []string{"Read", "Write"} {
				c.message(num, &ioV1{op, d.Major, d.Minor, *d.v1(num, op)})
			}
		}
	}
}

// take takes an entry that came in field num.
func (m *v1) take(c *codec, num protowire.Number) {
	var e ioV1
	c.message(num, &e)
	if c.err != nil || e.op != "Read" && e.op != "Write" {
		return
	}
	d, err := m.device(e.major, e.minor)
	if err != nil {
		c.fail(err)
		return
	}
	*d.v1(num, e.op) = e.value
}

// v1 is the number that field num has for op, Read or Write: the first counts
// bytes, the second operations.
func (d *IOMetrics) v1(num protowire.Number, op string) *uint64 {
	switch {
	case num == 1 && op == "Read":
		return &d.ReadBytes
	case num == 1:
		return &d.WriteBytes
	case op == "Read":
		return &d.ReadOps
	}
	return &d.WriteOps
}

// ioV1 is BlkIOEntry without the device's name.
type ioV1 struct {
	op                  string
	major, minor, value uint64
}

func (m *ioV1) fields(c *codec) {
	c.string(1, &m.op)
	c.uint64(3, &m.major)
	c.uint64(4, &m.minor)
	c.uint64(5, &m.value)
}

// MetricsV1 encodes m as io.containerd.cgroups.v1.Metrics, in which a missing
// limit of pids is 0.
func MetricsV1(m Metrics) *Any {
	if m.PidsLimit == math.MaxUint64 {
		m.PidsLimit = 0
	}
	v := v1{&m, m.SwapUsage, m.SwapLimit}
	if v.swapUsage > 0 || v.swapLimit > 0 {
		v.swapUsage = plus(v.swapUsage, m.MemoryUsage)
	}
	if v.swapLimit > 0 {
		v.swapLimit = plus(v.swapLimit, m.MemoryLimit)
	}
	return &Any{TypeURL: metricsV1URL, Value: encode(nil, &v)}
}

func parseV1(b []byte, m *Metrics) error {
	v := v1{Metrics: m}
	err := decode(b, &v)
	m.SwapUsage, m.SwapLimit = minus(v.swapUsage, m.MemoryUsage), minus(v.swapLimit, m.MemoryLimit)
	if v.swapLimit == math.MaxUint64 {
		m.SwapLimit = v.swapLimit
	}
	return err
}

// plus is a+b, or the largest number when that is larger.
func plus(a, b uint64) uint64 {
	if a+b < a {
		return math.MaxUint64
	}
	return a + b
}

// minus is a-b, or 0 when that is less.
func minus(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}
